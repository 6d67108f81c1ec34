"""What killed processes left in ``store/``, ``images/`` and ``trash/``: the next collector removes it."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hermetic.store import images, mark
from hermetic.store.layout import Layout

__all__ = ["Leftover", "foreign", "leftovers"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A tree without a record. `size` are the bytes of files that only it, and the blobs, link to."""

    path: Path
    size: int
    reason: str


def leftovers(layout: Layout, recorded: Collection[str]) -> list[Leftover]:
    """All of them, given the names that have a record (32 characters). Another user's are theirs, or root's, to remove.

    Call it with the collector alone: nobody is between moving an output and recording it then.
    """
    orphans = [name for name in sorted(os.listdir(layout.folder("store"))) if name[:32] not in recorded]
    thrown = sorted(os.listdir(layout.folder("trash")))
    leased = {key.hex for key, _ in mark.leased(layout)}
    begun = [name for name, digest in images.broken(layout.root) if images.key_of(digest).hex not in leased]
    found = [
        *(_leftover(f"{layout.root}/store/{name}", "its build was killed before it was recorded") for name in orphans),
        *(_leftover(f"{layout.root}/images/{name}", "an image that was never whole") for name in begun),
        *(_leftover(f"{layout.root}/trash/{name}", "left by a collector that was stopped") for name in thrown),
    ]
    return [leftover for leftover in found if os.geteuid() == 0 or foreign(str(leftover.path)) is None]


def foreign(path: str) -> int | None:
    """The user who owns `path`, if it is not us."""
    try:
        owner = os.lstat(path).st_uid
    except FileNotFoundError:
        return None
    return None if owner == os.geteuid() else owner


def _leftover(path: str, reason: str) -> Leftover:
    return Leftover(Path(path), _size(path), reason)


def _size(top: str) -> int:
    seen: Counter[int] = Counter()
    files: dict[int, os.stat_result] = {}
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:  # another collector is emptying the trash
                continue
            if stat.S_ISREG(status.st_mode):
                seen[status.st_ino] += 1
                files[status.st_ino] = status
    # One further link is the blob's; a second is another output's, or a workspace's.
    return sum(status.st_size for inode, status in files.items() if status.st_nlink <= seen[inode] + 1)
