"""Locks on files: one per key, and the one that keeps the collector out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hermetic.store.faults import storing
from hermetic.store.layout import is_shared, open_shared

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["KeyLock", "collector_alone", "collector_locked_out", "hold", "is_held", "remove_unheld"]


class KeyLock:
    """Who holds it may realise the key; every other process and thread waits, then finds the path.

    Not reentrant. Any thread may release it. The kernel frees it when the process dies.
    """

    def __init__(self, root: str, key_hex: str) -> None:
        self._root = root
        self._path = f"{root}/locks/{key_hex}"
        self._lock: FileLock | None = None

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; say whether it was taken. Does not wait."""
        return self._acquire(blocking=False)

    def acquire(self) -> None:
        """Take the lock, waiting for whoever holds it."""
        self._acquire(blocking=True)

    def release(self) -> None:
        """Let the next one in. Without effect when the lock is not held."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def held(self) -> bool:
        return self._lock is not None

    def _acquire(self, *, blocking: bool) -> bool:
        from filelock import FileLock, Timeout  # noqa: PLC0415  # 37 ms, which a no-op command does not pay

        if self._lock is not None:
            raise RuntimeError(f"{self._path} is held already")
        # Not thread-local: the driver takes it in one thread and gives it back in another.
        # A group shares its lock files, which filelock opens for writing.
        mode = 0o664 if is_shared(f"{self._root}/locks") else 0o644
        lock = FileLock(self._path, mode=mode, thread_local=False)
        try:
            with storing(self._root):
                lock.acquire(timeout=-1 if blocking else 0, poll_interval=0.02)
        except Timeout:
            return False
        self._lock = lock
        return True

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def collector_locked_out(root: str) -> Iterator[None]:
    """The shared side of the gc lock: what happens inside is seen by the collector before or after, never halfway."""
    with _gc_lock(root, fcntl.LOCK_SH):
        yield


@contextmanager
def collector_alone(root: str) -> Iterator[None]:
    """The exclusive side: nobody takes a lease, makes a root or enters an output meanwhile. Waits for those who do."""
    with _gc_lock(root, fcntl.LOCK_EX):
        yield


@contextmanager
def _gc_lock(root: str, side: int) -> Iterator[None]:
    descriptor = open_shared(f"{root}/locks/gc", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, side)
        yield
    finally:
        os.close(descriptor)


def hold(path: str) -> int:
    """Create `path` if need be and hold it until the descriptor that is returned is closed."""
    while True:
        descriptor = open_shared(path, os.O_RDWR | os.O_APPEND)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A sweep may have taken the new file for a dead one's and unlinked it before it was locked.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def is_held(path: str) -> bool:
    """Whether a living process holds `path`."""
    with _tried(path) as free:
        return free is False


def remove_unheld(path: str) -> None:
    """Unlink `path` unless a living process holds it. One that has just created it will see that it is gone."""
    with _tried(path) as free:
        if free:
            os.unlink(path)


@contextmanager
def _tried(path: str) -> Iterator[bool | None]:
    """Whether the lock on `path` could be taken, which it then is inside; None when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield _lock_now(descriptor)
    finally:
        os.close(descriptor)


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
