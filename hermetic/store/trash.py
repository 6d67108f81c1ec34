"""``trash/``: what no longer exists for anybody and is only waiting to be unlinked."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from hermetic.store.layout import Layout
from hermetic.store.records import names_below
from hermetic.store.removal import remove_tree
from hermetic.store.syncpoint import reach

__all__ = ["each", "empty", "sweep_blobs", "throw", "unlink"]

_MANY = 1000
_THREADS = 8

T = TypeVar("T")


def throw(layout: Layout, path: str) -> bool:
    """Move a path of the store into the trash; False when it is not there. Its record must be gone, on the disk."""
    try:
        if os.geteuid() != 0:
            os.chmod(path, 0o700)  # who is not root cannot move a 0555 folder
        os.rename(path, f"{layout.root}/trash/{os.urandom(8).hex()}-{os.path.basename(path)}")
    except FileNotFoundError:
        return False
    return True


def unlink(path: str) -> None:
    """Unlink a file of the store that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def empty(layout: Layout) -> None:
    """Unlink all that is in the trash, also what a collector that was stopped left. Several may do this at once."""
    folder = layout.folder("trash")
    each(_remove, [f"{folder}/{name}" for name in os.listdir(folder)])


def _remove(path: str) -> None:
    with suppress(PermissionError):  # another user's is theirs, or root's, to remove
        remove_tree(path)
    reach("trash.after-tree")


def sweep_blobs(layout: Layout) -> None:
    """Unlink the blobs that are the last link to their file.

    Safe while others work: who links to a blob that vanishes does without it, and only loses the sharing.
    """
    folder = layout.folder("blobs")
    each(_unlink_last, [f"{folder}/{name[:2]}/{name}" for name in names_below(folder)])
    reach("trash.after-blobs")


def _unlink_last(path: str) -> None:
    with suppress(FileNotFoundError, PermissionError):
        status = os.lstat(path)
        if status.st_nlink == 1 and stat.S_ISREG(status.st_mode):
            os.unlink(path)


def each(call: Callable[[T], object], items: Sequence[T]) -> None:
    """`call` for every item, in order if they are few.

    Freeing an inode waits for the journal, and several can wait at once: ext4 on one disk unlinked a file in 109 µs
    with one thread, in 27 with eight.
    """
    if len(items) < _MANY:
        for item in items:
            call(item)
        return
    step = -(-len(items) // (_THREADS * 8))
    pieces = [items[first : first + step] for first in range(0, len(items), step)]
    with ThreadPoolExecutor(_THREADS, "hermetic-trash") as pool:
        for _ in pool.map(lambda piece: [call(item) for item in piece], pieces):
            pass
