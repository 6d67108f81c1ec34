"""Reads a stage's output from a pipe on the event loop, into the log and to whoever watches.

The stage never gets the log itself: ``/proc/self/fd/1`` would tell it where the store lies and which build it is.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable

__all__ = ["Output"]

_CHUNK = 1 << 16
_TAIL = 4096


class Output:
    """One pipe. `writer` goes to the child; `close_writer` after the fork; `finished` once all writers are gone.

    `heard` is when something last came (`time.monotonic`). `ends` is taken over in place of a pipe's two ends: those
    of a pseudo-terminal.
    """

    def __init__(
        self, log: int | None, watch: Callable[[bytes], None] | None, ends: tuple[int, int] | None = None
    ) -> None:
        self.reader, self.writer = ends or os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        self.tail = b""
        self.heard = time.monotonic()
        self._log = log
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self.reader, self._on_readable)

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    async def finished(self) -> None:
        """Returns when the last writer has closed; raises what writing the log or the watcher raised."""
        await asyncio.shield(self._ended)

    async def settled(self) -> None:
        """Like `finished`, for those who have a worse error to raise."""
        await asyncio.wait([self._ended])

    def close(self) -> None:
        self.close_writer()
        if self.reader >= 0:
            self._loop.remove_reader(self.reader)
            os.close(self.reader)
            self.reader = -1
        if self._ended.done() and not self._ended.cancelled():
            self._ended.exception()
        self._ended.cancel()

    def _on_readable(self) -> None:
        try:
            chunk = self._read()
            if chunk:
                self._deliver(chunk)
                return
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001  # it reaches the caller of `finished`
            self._loop.remove_reader(self.reader)
            self._ended.set_exception(error)
            return
        self._loop.remove_reader(self.reader)
        self._ended.set_result(None)

    def _read(self) -> bytes:
        try:
            return os.read(self.reader, _CHUNK)
        except OSError as error:
            if error.errno == errno.EIO:  # how a pseudo-terminal says that its last writer has closed
                return b""
            raise

    def _deliver(self, chunk: bytes) -> None:
        self.tail = (self.tail + chunk)[-_TAIL:]
        self.heard = time.monotonic()
        view = memoryview(chunk if self._log is not None else b"")
        while view and self._log is not None:
            view = view[os.write(self._log, view) :]
        if self._watch is not None:
            self._watch(chunk)
