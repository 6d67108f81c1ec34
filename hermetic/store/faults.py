"""What the operating system says, in the words of the error tree."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hermetic.errors import Domain, HermeticError

__all__ = ["explain", "refuse", "shown", "storing"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


def shown(path: bytes) -> str:
    """A path of an output for a message: printable whatever its bytes are."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text) or "."


def refuse(reason: str, path: bytes, problem: str, hint: str | None = None) -> HermeticError:
    """The error for an output that cannot enter the store."""
    return HermeticError(
        Domain.BUILD, reason, f"the output's {shown(path)}: {problem}", hint=hint, data={"path": shown(path)}
    )


def explain(error: OSError, root: str) -> HermeticError | None:
    """The error behind `error` when it tells of a full or a read-only store, else None."""
    if error.errno in _FULL:
        return _full(error, root)
    if error.errno == errno.EROFS:
        return HermeticError(
            Domain.ENVIRONMENT,
            "store-read-only",
            f"the store at {root} lies on a read-only file system",
            hint="remount it for writing, or choose another store with --store or HERMETIC_STORE",
        )
    if error.errno in _DENIED:
        return HermeticError(
            Domain.ENVIRONMENT,
            "store-read-only",
            f"no permission to write to the store at {root}: {error.filename or root}",
            hint="run as the store's owner, or choose another store with --store or HERMETIC_STORE",
        )
    return None


def _full(error: OSError, root: str) -> HermeticError:
    what = "your disk quota is used up" if error.errno == errno.EDQUOT else "the disk is full"
    try:
        status = os.statvfs(root)
        free = f", {status.f_bavail * status.f_frsize / 1e6:,.0f} MB and {status.f_favail:,} files left"
    except OSError:
        free = ""
    return HermeticError(
        Domain.ENVIRONMENT,
        "store-full",
        f"{what} under the store at {root}{free}",
        hint="make room on that file system (`--keep-failed` leaves workspaces in its tmp folder), "
        "or choose another store with --store or HERMETIC_STORE",
    )


@contextmanager
def storing(root: str) -> Iterator[None]:
    """Turn what the operating system says about a full or read-only store into errors; pass the rest on."""
    try:
        yield
    except OSError as error:
        if (known := explain(error, root)) is not None:
            raise known from error
        raise
