"""``trash/``: what no longer exists for anybody and is only waiting to be unlinked."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from hermetic.store.layout import Layout
from hermetic.store.records import names_below
from hermetic.store.removal import remove_tree
from hermetic.store.syncpoint import reach

__all__ = ["empty", "sweep_blobs", "throw", "unlink"]


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
    for name in os.listdir(folder):
        with suppress(PermissionError):  # another user's is theirs, or root's, to remove
            remove_tree(f"{folder}/{name}")
        reach("trash.after-tree")


def sweep_blobs(layout: Layout) -> None:
    """Unlink the blobs that are the last link to their file.

    Safe while others work: who links to a blob that vanishes does without it, and only loses the sharing.
    """
    for name in names_below(layout.folder("blobs")):
        path = f"{layout.root}/blobs/{name[:2]}/{name}"
        with suppress(FileNotFoundError, PermissionError):
            status = os.lstat(path)
            if status.st_nlink == 1 and stat.S_ISREG(status.st_mode):
                os.unlink(path)
    reach("trash.after-blobs")
