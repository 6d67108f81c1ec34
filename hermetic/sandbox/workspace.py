"""A stage's workspace: the folders that become ``/build``, and inputs staged under names that say nothing.

``/proc/self/mountinfo`` shows a stage where each of its mounts lies on the file system. So an input is never bound
from the store, where its path holds its key, but from ``in/<role>`` of the workspace, made of hard links.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import abi

__all__ = ["hand_over", "prepare", "stage_inputs"]

_CLONE: Final = 0x40049409  # FICLONE
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP})
_FOLDER: Final = 0o755
_CANONICAL: Final = (315532800, 315532800)


def prepare(workspace: str) -> None:
    """Make the folders that a `LaunchPlan` expects in `workspace`, which exists. Those that are there stay."""
    for name in ("in", "program", *abi.WORKSPACE_WRITABLE):
        os.makedirs(f"{workspace}/{name}", mode=_FOLDER, exist_ok=True)


def stage_inputs(workspace: str, inputs: Mapping[str, str], *, link: bool = True) -> dict[str, str]:
    """Put every role's file or folder at ``in/<role>`` of `workspace`; returns where the stage sees each.

    Store paths are hard-linked (`link`), which takes about 15 µs a file; where the file system refuses, they are
    cloned or else copied. What others may change (a source outside the store) is staged with ``link=False``. The
    staged folders are 0755, linked files keep their own mode.
    """
    place = _link if link else _copy
    for role, path in inputs.items():
        if "/" in role or role in {"", ".", ".."}:
            raise HermeticError(Domain.RECIPE, "role-invalid", f"{role!r} cannot name an input")
        target = f"{workspace}/in/{role}"
        if stat.S_ISDIR(os.stat(path).st_mode):
            _stage_folder(path, target, place)
        else:
            place(os.path.realpath(path), target)
    return {role: f"{abi.IN}/{role}" for role in inputs}


def hand_over(workspace: str, uid: int, gid: int) -> None:
    """As root: give the writable folders to the build's user, and let it read the rest whatever the umask was."""
    for name in abi.WORKSPACE_WRITABLE:
        os.chown(f"{workspace}/{name}", uid, gid)
        os.chmod(f"{workspace}/{name}", _FOLDER)
    for name in ("in", "program"):
        os.chmod(f"{workspace}/{name}", _FOLDER)
    for folder, folders, files in os.walk(f"{workspace}/program"):
        for entry in (*folders, *files):
            _add_read(f"{folder}/{entry}")
    _add_read(f"{workspace}/stage.json")


def _add_read(path: str) -> None:
    mode = os.lstat(path).st_mode
    if not stat.S_ISLNK(mode):
        os.chmod(path, stat.S_IMODE(mode) | (0o555 if stat.S_ISDIR(mode) else 0o444))


def _stage_folder(source: str, target: str, place: Callable[[str, str], None]) -> None:
    os.mkdir(target, _FOLDER)
    with os.scandir(source) as entries:
        for entry in entries:
            inside = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), inside)
            elif entry.is_dir(follow_symlinks=False):
                _stage_folder(entry.path, inside, place)
            else:
                place(entry.path, inside)
    os.utime(target, _CANONICAL)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(source, target)


def _copy(source: str, target: str) -> None:
    from fcntl import ioctl  # noqa: PLC0415  # only this path needs it

    mode = 0o555 if os.stat(source).st_mode & stat.S_IXUSR else 0o444
    with open(source, "rb") as reader, open(target, "xb") as writer:
        try:
            ioctl(writer.fileno(), _CLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)
    os.chmod(target, mode)
    os.utime(target, _CANONICAL)
