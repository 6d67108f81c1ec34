"""Removing any tree whatever: deep, unreadable, or owned by the uid that built it."""

from __future__ import annotations

import os
import stat

from hermetic.store.walk import OPEN_FOLDER

__all__ = ["remove_tree"]


def remove_tree(path: str) -> None:
    """Remove whatever is at `path`; nothing there is fine. Symlinks are removed, never followed.

    Folders inside are moved up next to each other as they are met, so that neither depth nor PATH_MAX nor the number
    of open files is a limit. Raises `OSError` when something cannot be removed. Several may do this at once.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        _unlink(path, None)
        return
    parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_folder(parent, os.path.basename(path))
    except FileNotFoundError:
        return  # somebody else removes it too
    finally:
        os.close(parent)


def _remove_folder(parent: int, name: str) -> None:
    top = _open_writable(parent, name)
    try:
        waiting = _empty(top, top)
        while waiting:
            folder = waiting.pop()
            descriptor = _open_writable(top, folder)
            try:
                waiting += _empty(descriptor, top)
            finally:
                os.close(descriptor)
            _rmdir(folder, top)
    finally:
        os.close(top)
    _rmdir(name, parent)


def _empty(folder: int, top: int) -> list[str]:
    """Unlink the files of `folder`, move its folders into `top` under new names, and give these names."""
    moved = []
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        if not is_folder:
            _unlink(name, folder)
        elif folder == top:
            moved.append(name)
        else:
            os.close(_open_writable(folder, name))  # moving a folder needs write permission on itself
            moved.append(f".removing-{os.urandom(8).hex()}")
            os.rename(name, moved[-1], src_dir_fd=folder, dst_dir_fd=top)
    return moved


def _open_writable(parent: int, name: str) -> int:
    """Open a folder after giving ourselves every permission on it."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            # An unreadable folder cannot be opened for fchmod; through /proc its inode can be named without a race.
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(name, OPEN_FOLDER, dir_fd=parent)
    finally:
        os.close(handle)


def _unlink(name: str, folder: int | None) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _rmdir(name: str, parent: int) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return
