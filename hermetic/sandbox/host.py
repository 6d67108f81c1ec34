"""`Host`: listed paths of this machine, each identified by its content and bound where it lies."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from hermetic.digest import TreeDigest, TreeEntry, tree_digest
from hermetic.errors import Domain, HermeticError
from hermetic.recipe.environments import Host
from hermetic.recipe.memo import Memo
from hermetic.sandbox import abi
from hermetic.sandbox.plan import Mount, is_within

if TYPE_CHECKING:
    from hermetic.canonical import Value

__all__ = ["command", "mounts", "value"]

_OURS: Final = ("/build", "/proc", "/dev", "/sys", *(f"/etc/{name}" for name in abi.ETC))


def value(environment: Host, memo: Memo) -> dict[str, Value]:
    """What enters keys: each listed path with the digest of what is there now.

    Raises `HermeticError`: recipe/host-path-missing, recipe/host-path-invalid, environment/host-path-unreadable.
    """
    listed: dict[str, Value] = {path: _digest(_checked(path), memo) for path in sorted(environment.paths)}
    return {"kind": "host", "paths": listed, "python": environment.python}


def mounts(environment: Host) -> tuple[Mount, ...]:
    """Outer paths first, so that an inner one is bound over it; a listed symlink brings what it points to."""
    return tuple(Mount(os.path.realpath(_checked(path)), path.rstrip("/")) for path in sorted(environment.paths))


def command(environment: Host) -> tuple[str, ...]:
    return (environment.python, "-P", "-B") if environment.python else ()


def _checked(path: str) -> str:
    if os.path.normpath(path) != path.rstrip("/") or not path.startswith("/") or path == "/":
        message = f"Host lists {path!r}; each path is absolute, without dots, and not the whole machine"
        raise HermeticError(Domain.RECIPE, "host-path-invalid", message)
    if any(is_within(path, ours) or is_within(ours, path) for ours in _OURS):
        message = f"Host lists {path!r}, where the sandbox has files of its own"
        raise HermeticError(Domain.RECIPE, "host-path-invalid", message, hint="list only what a stage needs of it")
    if not os.path.exists(path):
        hint = "install what provides it, or take it off the list"
        raise HermeticError(Domain.RECIPE, "host-path-missing", f"Host lists {path}, which does not exist", hint=hint)
    return path


def _digest(path: str, memo: Memo) -> str:
    try:
        status = memo.observe(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return _folder(os.path.realpath(path), memo).hex
        if status is None or not stat.S_ISREG(status.st_mode):
            message = f"Host lists {path}, which is neither a file nor a folder"
            raise HermeticError(Domain.RECIPE, "host-path-invalid", message)
        digest, size, executable = memo.blob(path)
        return tree_digest([TreeEntry(b"file", "file", executable, size, digest)]).hex
    except OSError as error:
        message = f"Host lists {path}, of which {error.filename} cannot be read: {error.strerror}"
        hint = "list only the parts that a stage needs and that you may read"
        raise HermeticError(Domain.ENVIRONMENT, "host-path-unreadable", message, hint=hint) from error


def _folder(folder: str, memo: Memo) -> TreeDigest:
    memo.observe(folder)
    with os.scandir(folder) as found:
        entries = list(found)
    return tree_digest(_entry(entry, memo) for entry in entries if not _is_special(entry))


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Sockets, pipes and devices have no content; they are there inside, and count for nothing."""
    mode = entry.stat(follow_symlinks=False).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _entry(entry: os.DirEntry[str], memo: Memo) -> TreeEntry:
    name = os.fsencode(entry.name)
    if entry.is_symlink():
        memo.observe(entry.path, follow=False)
        return TreeEntry(name, "symlink", target=os.fsencode(os.readlink(entry.path)))
    if entry.is_dir(follow_symlinks=False):
        return TreeEntry(name, "dir", digest=_folder(entry.path, memo))
    digest, size, executable = memo.blob(entry.path)
    return TreeEntry(name, "file", executable, size, digest)
