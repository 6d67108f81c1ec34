"""What stays until somebody says otherwise: folders of failed builds, downloads cut short, wrong bytes.

None of it is a result, and each may be wanted: to look into, to go on from, or as evidence. `gc --failed` removes it,
and so does `gc --older-than` once it has not been touched for so long.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hermetic.digest import Key
from hermetic.store import trash
from hermetic.store.layout import Layout
from hermetic.store.locks import is_held
from hermetic.store.sweep import UNFINISHED

__all__ = ["QUARANTINE", "Abandoned", "abandoned", "remove"]

#: Below the store's root: what was fetched and had another digest than the lock file says.
QUARANTINE: Final = "quarantine"
_MARK: Final = ".kept"
_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Abandoned:
    """`touched` are Unix seconds, `busy` whether somebody is at it; `marker` is a file that goes before it."""

    path: Path
    size: int
    touched: float
    busy: bool
    reason: str
    marker: Path | None = None


def abandoned(layout: Layout) -> list[Abandoned]:
    """All of it that this user may remove. Call it with the collector alone."""
    found = [*_workspaces(layout), *_downloads(layout), *_quarantined(layout)]
    return [one for one in found if os.geteuid() in (0, one.path.lstat().st_uid)]


def remove(layout: Layout, one: Abandoned) -> None:
    """Into the trash. Without its marker a workspace is any dead run's, so a kill in between loses nothing."""
    if one.marker is not None:
        trash.unlink(str(one.marker))
    trash.throw(layout, str(one.path))


def _workspaces(layout: Layout) -> Iterator[Abandoned]:
    folder = Path(layout.folder("tmp"))
    for marker in sorted(folder.glob(f"*{_MARK}")):
        path = marker.with_name(marker.name.removesuffix(_MARK))
        if path.is_dir():
            reason = "the folder of a failed build, kept by --keep-failed"
            yield Abandoned(path, _size(path), marker.stat().st_mtime, is_held(str(marker)), reason, marker)


def _downloads(layout: Layout) -> Iterator[Abandoned]:
    locks = {Key(name).base32: name for name in os.listdir(layout.folder("locks")) if _HEX.fullmatch(name)}
    for path in sorted(Path(layout.folder("tmp")).glob(f"{UNFINISHED}-*")):
        lock = locks.get(path.name.partition("-")[2], "")
        busy = bool(lock) and is_held(f"{layout.root}/locks/{lock}")
        reason = "a download that was cut short; the next one goes on from it"
        yield Abandoned(path, _size(path), _newest(path), busy, reason)


def _quarantined(layout: Layout) -> Iterator[Abandoned]:
    folder = Path(layout.root, QUARANTINE)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        reason = "fetched, and not what the lock file says"
        yield Abandoned(path, path.lstat().st_size, path.lstat().st_mtime, busy=False, reason=reason)


def _size(top: Path) -> int:
    """Bytes of files that nothing outside has a link to as well."""
    return sum(status.st_size for status in _statuses(top) if status.st_nlink == 1)


def _newest(top: Path) -> float:
    return max((status.st_mtime for status in _statuses(top)), default=top.lstat().st_mtime)


def _statuses(top: Path) -> Iterator[os.stat_result]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield os.lstat(os.path.join(folder, name))
