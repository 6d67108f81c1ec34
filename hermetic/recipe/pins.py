"""The lock file of the recipe that is being evaluated, and whether somebody evaluates it in order to write that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hermetic.recipe import evaluation, lockfile

__all__ = ["current_lock", "is_locking", "lock_command", "locking"]

_locking: ContextVar[bool] = ContextVar("locking", default=False)


@contextmanager
def locking() -> Iterator[None]:
    """Inside, what has no lock entry is no mistake: somebody evaluates the recipe to write them."""
    token = _locking.set(True)
    try:
        yield
    finally:
        _locking.reset(token)


def is_locking() -> bool:
    return _locking.get()


def current_lock() -> lockfile.LockFile | None:
    """The lock file beside the recipe; None outside an evaluation. Raises as `LockFile.read` does.

    Read once an evaluation, and observed: what was derived from it holds while it stays as it is, or stays away.
    """
    running = evaluation.current()
    if running is None:
        return None
    if running.lock is None:
        path = lockfile.lock_path(running.file)
        running.memo.observe(path)
        running.lock = lockfile.LockFile.read(path)
    return running.lock


def lock_command() -> str:
    """What to run to have the recipe's lock file written."""
    running = evaluation.current()
    return f"hermetic lock {running.shown(running.file) if running is not None else 'RECIPE'}"
