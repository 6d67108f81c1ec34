"""``verify``: read everything that is realised again, and say what is not as it was recorded."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hermetic import canonical
from hermetic.digest import Key
from hermetic.store import images, manifest, realisation
from hermetic.store.checking import Hashes, differences
from hermetic.store.layout import Layout
from hermetic.store.realisation import Realisation
from hermetic.store.records import keys as every_key
from hermetic.store.records import read_record
from hermetic.store.walk import OPEN_FILE

__all__ = ["Problem", "blob_problem", "verify"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the store that is not as recorded. `key` is None where no key is at fault (a blob, an image)."""

    key: Key | None
    path: Path
    what: str


def verify(
    layout: Layout, wanted: Iterable[Key] | None, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Everything wrong with `wanted`, or with all that is realised, all images and all blobs. Changes nothing."""
    keys = list(every_key(layout) if wanted is None else wanted)
    found: list[Problem] = []
    records: list[Realisation] = []
    for key in keys:
        record, problem = _record(layout, key)
        if problem is not None:
            found.append(Problem(key, Path(layout.record(key)), problem))
        if record is not None:
            records.append(record)
    unpacked = images.every(layout.root) if wanted is None else []
    total = sum(record.size for record in records) + sum(image.size for image in unpacked)
    advance = _Tally(progress, total).add if progress is not None else None
    hashes = Hashes(advance)
    for record in records:
        found += _one(layout, record, hashes)
    for image in unpacked:
        found += [Problem(None, Path(image.folder, path), what) for path, what in images.problems(image, advance)]
    if wanted is None:
        found += _blobs(layout, hashes)
    return found


class _Tally:
    """Adds up what several threads have read."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._guard = threading.Lock()

    def add(self, count: int) -> None:
        with self._guard:
            # Blobs that no output uses come on top of what was foreseen.
            self._done = min(self._done + count, self._total)
            self._progress(self._done, self._total)


def _record(layout: Layout, key: Key) -> tuple[Realisation | None, str | None]:
    if (record := read_record(layout, key)) is None:
        return None, "is missing or cannot be read"
    with open(layout.record(key), "rb") as file:
        return record, None if file.read() == realisation.encode(record) else "is not canonical: it has been changed"


def _one(layout: Layout, record: Realisation, hashes: Hashes) -> list[Problem]:
    output = Path(layout.output(record.key, record.name))
    found = [Problem(record.key, output / path, what) for path, what in differences(layout, record, hashes)]
    if not found and manifest.read(layout, record.tree).size != record.size:
        found.append(Problem(record.key, output, f"does not hold the {record.size:,} bytes that its record says"))
    if (problem := _preimage_problem(layout, record.key)) is not None:
        found.append(Problem(record.key, Path(layout.preimage(record.key)), problem))
    return found


def _preimage_problem(layout: Layout, key: Key) -> str | None:
    try:
        with open(layout.preimage(key), "rb") as file:
            data = file.read()
        value = json.loads(data)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError):
        return "cannot be read"
    if next(canonical.problems(value), None) is not None or canonical.encode(value) != data:
        return "is not canonical: it has been changed"
    return None


def _blobs(layout: Layout, hashes: Hashes) -> list[Problem]:
    found = []
    for prefix in sorted(os.listdir(layout.folder("blobs"))):
        for name in sorted(os.listdir(f"{layout.root}/blobs/{prefix}")):
            path = f"{layout.root}/blobs/{prefix}/{name}"
            if (problem := blob_problem(path, name, hashes)) is not None:
                found.append(Problem(None, Path(path), problem))
    return found


def blob_problem(path: str, name: str, hashes: Hashes) -> str | None:
    """What is wrong with one blob; None when it is whole, or gone."""
    try:
        opened = os.open(path, OPEN_FILE)
    except FileNotFoundError:
        return None  # collected meanwhile
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        digest = hashes.of(opened, os.fstat(opened))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    finally:
        os.close(opened)
    return None if digest.hex == name.removesuffix(".x") else "has other contents than its name says"
