"""A log that cannot fill a disk: ``NAME`` grows to a size and then is ``NAME.1``, the next older ``NAME.2``, to a last.

The files are put aside here and not by logrotate, because then nothing has to be installed, told or timed for a limit
to hold. The file is opened for each write, so that whoever else moves it away loses nothing either.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

__all__ = ["Rotated"]

_MODE: Final = 0o600


class Rotated:
    """The log `path` of at most `size` bytes a file, with at most `older` files beside it that were put aside.

    Any number of processes may write to it and none waits for another: one write is one append, and what is written
    while another process puts the file aside goes to the file that is put aside. Raises `OSError`.
    """

    def __init__(self, path: str, size: int, older: int) -> None:
        self.path = path
        self._size = size
        self._older = older

    def append(self, data: bytes) -> None:
        """As they are: pieces of a text need not be lines."""
        self._write(data, lines=False)

    def append_line(self, line: str) -> None:
        """On a line of its own, even after one that a full disk or a power loss cut short."""
        self._write(f"{line}\n".encode(), lines=True)

    def put_aside(self) -> None:
        """Begin a new file, if there is anything in this one."""
        with suppress(FileNotFoundError):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size:
                    self._put_aside(descriptor)
            finally:
                os.close(descriptor)

    def newest_first(self, most: int | None = None) -> Iterator[bytes]:
        """What the files hold, each once, even if they are put aside meanwhile; no more than the last `most` bytes."""
        seen = set()
        left = sys.maxsize if most is None else most
        for number in range(self._older + 1):
            with suppress(FileNotFoundError), open(self._named(number), "rb") as stream:
                status = os.fstat(stream.fileno())
                if left > 0 and (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    stream.seek(max(0, status.st_size - left))
                    left -= status.st_size
                    yield stream.read()

    def _write(self, data: bytes, *, lines: bool) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        descriptor = self._open()
        try:
            length = os.fstat(descriptor).st_size
            if length and length + len(data) > self._size:
                self._put_aside(descriptor)
                os.close(descriptor)
                descriptor = self._open()
                length = os.fstat(descriptor).st_size
            if lines and length and os.pread(descriptor, 1, length - 1) != b"\n":
                data = b"\n" + data
            while data:  # the rest of a write that was cut short fails, and says why
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)

    def _put_aside(self, descriptor: int) -> None:
        """The one who has the lock does it, and only if the file is still the one that was opened."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours, shown = os.fstat(descriptor), os.stat(self.path)
        except (BlockingIOError, FileNotFoundError):
            return
        if (ours.st_dev, ours.st_ino) == (shown.st_dev, shown.st_ino):
            self._shift()

    def _shift(self) -> None:
        """Up to the first name that is free: a kill in the middle leaves one, and then nothing has to go."""
        free = next((n for n in range(1, self._older) if not os.path.exists(self._named(n))), self._older)
        for number in range(free, 0, -1):
            os.rename(self._named(number - 1), self._named(number))

    def _named(self, number: int) -> str:
        return f"{self.path}.{number}" if number else self.path
