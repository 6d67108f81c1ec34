"""Another file with the same bytes, at the least cost the file system allows."""

from __future__ import annotations

import errno
import fcntl
import os

from hermetic.store.layout import EPOCH_NS
from hermetic.store.walk import OPEN_FILE, Descent, FileNode, FolderNode, Survey, unreadable

__all__ = ["canonical_mode", "clone", "copy_tree", "link_or_clone"]

_FICLONE = 0x40049409
_CANNOT_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP})


def canonical_mode(*, executable: bool) -> int:
    return 0o555 if executable else 0o444


def reflink(source: int, target: int) -> bool:
    """Let the open file `target` share the blocks of `source`; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def clone(source: int, name: str | bytes, folder: int, *, executable: bool, share_only: bool = False) -> bool:
    """Make `name` in `folder` a new file with the bytes of the open file `source` and canonical metadata.

    With `share_only` nothing is made, and the answer is False, where the two cannot share their blocks.
    """
    target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        if not reflink(source, target):
            if share_only:
                os.unlink(name, dir_fd=folder)
                return False
            _copy(source, target)
        os.fchmod(target, canonical_mode(executable=executable))
        os.utime(target, ns=(EPOCH_NS, EPOCH_NS))
        return True
    finally:
        os.close(target)


def _copy(source: int, target: int) -> None:
    offset = 0
    while count := os.sendfile(target, source, offset, 1 << 26):
        offset += count


def link_or_clone(name: bytes, source: int, target: int, *, executable: bool) -> None:
    """Let the folder `target` have the file `name` of the folder `source`, linked if that can be done."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        descriptor = os.open(name, OPEN_FILE, dir_fd=source)
        try:
            clone(descriptor, name, target, executable=executable)
        finally:
            os.close(descriptor)


def copy_tree(found: Survey, source: int, target: int, *, link: bool) -> None:
    """Rebuild a surveyed tree below the open folder `target`, its files linked or copied; folders stay writable."""
    with Descent(source) as old, Descent(target) as new:
        for folder in found.folders:
            _copy_folder(folder, old.at(folder.parts), new.at(folder.parts), link=link)


def _copy_folder(folder: FolderNode, source: int, target: int, *, link: bool) -> None:
    for file in folder.files:
        if link:
            link_or_clone(file.name, source, target, executable=file.executable)
        else:
            _copy_file(folder, file, source, target)
    for symlink in folder.links:
        os.symlink(symlink.target, symlink.name, dir_fd=target)
        os.utime(symlink.name, ns=(EPOCH_NS, EPOCH_NS), dir_fd=target, follow_symlinks=False)
    for inner in folder.folders:
        os.mkdir(inner.parts[-1], 0o755, dir_fd=target)


def _copy_file(folder: FolderNode, file: FileNode, source: int, target: int) -> None:
    try:
        descriptor = os.open(file.name, OPEN_FILE, dir_fd=source)
    except OSError as error:
        raise unreadable(folder.inside(file.name), error) from error
    try:
        clone(descriptor, file.name, target, executable=file.executable)
    finally:
        os.close(descriptor)
