"""A running bubblewrap: when it ended, how, and that its whole tree is gone.

Bubblewrap's own process reports the program's end and exits; only then does the kernel kill what is left in the
stage's process namespace. So the end of a stage is the end of the namespace's first process, which a pidfd tells.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess

from hermetic.sandbox.output import Output

__all__ = ["Process"]


class Process:
    """One launched stage. `status` is the reading end of ``--json-status-fd``; both are taken over."""

    def __init__(self, launched: subprocess.Popen[bytes], output: Output, status: int) -> None:
        self.launched = launched
        self.output = output
        self.code: int | None = None
        self._loop = asyncio.get_running_loop()
        self._status = status
        self._text = b""
        self._descriptors: dict[int, asyncio.Future[None]] = {}
        self._outer = self._watch(os.pidfd_open(launched.pid))
        self._inner: asyncio.Future[None] | None = None
        os.set_blocking(status, False)
        self._loop.add_reader(status, self._on_status)

    def kill(self) -> None:
        """SIGKILL for bubblewrap and, before the stage has a session of its own, for its first process."""
        if self.launched.returncode is None:
            os.killpg(self.launched.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Returns when no process of the stage is left."""
        await asyncio.shield(self._outer)
        self.launched.wait()
        self._on_status()
        if self._inner is not None:
            await asyncio.shield(self._inner)

    async def ended(self) -> None:
        """Returns when no process is left and all of the output has been delivered; raises what delivering raised."""
        await self.output.finished()
        await self.gone()

    def close(self) -> None:
        """Give back every descriptor; the stage must have ended."""
        self._loop.remove_reader(self._status)
        os.close(self._status)
        for descriptor, future in self._descriptors.items():
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            future.cancel()
        self._descriptors.clear()

    def _watch(self, pidfd: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._descriptors[pidfd] = future
        self._loop.add_reader(pidfd, self._on_exit, pidfd, future)
        return future

    def _on_exit(self, pidfd: int, future: asyncio.Future[None]) -> None:
        self._loop.remove_reader(pidfd)
        if not future.done():
            future.set_result(None)

    def _on_status(self) -> None:
        """Bubblewrap writes one JSON object a line: first the first process's id, at the end the exit code."""
        try:
            chunk = os.read(self._status, 4096)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._status)
        self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            record = json.loads(line)
            self.code = record.get("exit-code", self.code)
            if "child-pid" in record and self._inner is None:
                self._follow_first(record["child-pid"])

    def _follow_first(self, pid: int) -> None:
        try:
            self._inner = self._watch(os.pidfd_open(pid))
        except ProcessLookupError:
            return
