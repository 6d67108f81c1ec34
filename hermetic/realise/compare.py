"""How two store paths differ: file by file, JSON field by field, safetensors tensor by tensor."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermetic.store.manifest import Entry, Manifest

__all__ = ["Difference", "differences"]

_LARGEST_JSON = 64 << 20  # bytes; what is larger is compared as bytes
_LARGEST_HEADER = 100 << 20  # of a safetensors file, in bytes: the format's own limit


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is in one tree or both; `what` says how the two differ; `details` go inside the file."""

    path: str
    what: str
    details: tuple[str, ...] = ()


def differences(one: Manifest, other: Manifest, one_root: Path, other_root: Path) -> Iterator[Difference]:
    """Every name that is not the same in both, in order. Reads only files whose digests differ."""
    left = {entry.path: entry for entry in one.entries}
    right = {entry.path: entry for entry in other.entries}
    for path in sorted({*left, *right}):
        a, b = left.get(path), right.get(path)
        if a is None or b is None:
            yield Difference(path, "only in the second" if a is None else "only in the first")
        elif a != b:
            yield _entry(a, b, one_root / path, other_root / path)


def _entry(a: Entry, b: Entry, one: Path, other: Path) -> Difference:
    if a.type != b.type:
        return Difference(a.path, f"{a.type} became {b.type}")
    if a.type == "symlink":
        return Difference(a.path, f"points to {b.target}, was {a.target}")
    if a.digest == b.digest:
        return Difference(a.path, "is executable" if b.executable else "is no longer executable")
    size = f"{a.size} bytes" if a.size == b.size else f"{a.size} bytes became {b.size}"
    return Difference(a.path, f"content differs ({size})", tuple(_inside(one, other)))


def _inside(one: Path, other: Path) -> Iterator[str]:
    try:
        if one.suffix == ".json" and max(one.stat().st_size, other.stat().st_size) <= _LARGEST_JSON:
            yield from _fields(json.loads(one.read_bytes()), json.loads(other.read_bytes()), "")
        elif one.suffix == ".safetensors":
            yield from _tensors(one, other)
        else:
            yield f"first difference at byte {_first_difference(one, other)}"
    except (ValueError, KeyError, TypeError, struct.error) as error:
        yield f"cannot be read as {one.suffix[1:]}: {error}"


def _fields(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            inner = f"{where}.{name}" if where else str(name)
            if name not in one or name not in other:
                yield f"{inner}: {'added' if name not in one else 'gone'}"
            else:
                yield from _fields(one[name], other[name], inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _fields(a, b, f"{where}[{place}]")
    elif one != other:
        yield f"{where}: {_short(one)} became {_short(other)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tensors(one: Path, other: Path) -> Iterator[str]:
    """Layout: 8 bytes of little-endian header length, a JSON header, the tensors' bytes (safetensors' own format)."""
    with open(one, "rb") as left, open(other, "rb") as right:
        a, b = _header(left), _header(right)
        for name in sorted({*a, *b}):
            if name not in a or name not in b:
                yield f"{name}: {'added' if name not in a else 'gone'}"
                continue
            shape = [(item["dtype"], item["shape"]) for item in (a[name], b[name])]
            if shape[0] != shape[1]:
                yield f"{name}: {shape[0][0]}{shape[0][1]} became {shape[1][0]}{shape[1][1]}"
            elif name != "__metadata__":
                count, total = _unequal(left, right, a[name], b[name])
                if count:
                    yield f"{name}: {count} of {total} bytes differ"


def _header(stream: Any) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > _LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    for item in header.values():
        item["start"] = 8 + length + item["data_offsets"][0]
    return header


def _unequal(left: Any, right: Any, a: dict[str, Any], b: dict[str, Any]) -> tuple[int, int]:
    """Differing bytes of one tensor, and all of its bytes, read a MiB at a time."""
    total = a["data_offsets"][1] - a["data_offsets"][0]
    left.seek(a["start"])
    right.seek(b["start"])
    count, rest = 0, total
    while rest > 0:
        one, other = left.read(min(rest, 1 << 20)), right.read(min(rest, 1 << 20))
        if one != other:
            exclusive = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
            count += sum(byte != 0 for byte in exclusive.to_bytes(max(len(one), len(other)), "little"))
        rest -= 1 << 20
    return count, total


def _first_difference(one: Path, other: Path) -> int:
    offset = 0
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            a, b = left.read(1 << 20), right.read(1 << 20)
            if a != b:
                return offset + len(os.path.commonprefix([a, b]))  # noqa: RUF071  # bytes, not paths: just what is meant
            if not a:
                return offset
            offset += len(a)
