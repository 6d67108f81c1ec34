"""A running stage as the driver sees it: its guard, whose end means that nothing is left, and bubblewrap's report."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable

from hermetic.errors import HermeticError
from hermetic.sandbox import tools, usage
from hermetic.sandbox.forker import Launched
from hermetic.sandbox.output import Output
from hermetic.sandbox.usage import Counted

__all__ = ["Process"]


class Process:
    """One launched stage. `status` is the reading end of ``--json-status-fd``; both are taken over.

    `on_first` is told the id of the stage's first process. `code` is the program's exit code and `counted` what all
    used, once they are known.
    """

    def __init__(
        self,
        launched: subprocess.Popen[bytes] | Launched,
        output: Output,
        status: int,
        on_first: Callable[[int], None] | None = None,
    ) -> None:
        self.launched = launched
        self.output = output
        self.code: int | None = None
        self.counted = Counted(0.0, 0, 0)
        self._on_first = on_first
        self._loop = asyncio.get_running_loop()
        self._status = status
        self._text = b""
        self._pidfd = os.pidfd_open(launched.pid)
        self._guard: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._on_exit)
        os.set_blocking(status, False)
        self._loop.add_reader(status, self._on_status)

    def kill(self) -> None:
        """Let the guard kill everything. Does nothing when all has ended."""
        if self.launched.returncode is None:
            os.kill(self.launched.pid, signal.SIGTERM)

    async def gone(self) -> None:
        """Returns when no process of the stage is left."""
        await asyncio.shield(self._guard)
        if self.launched.returncode is None:
            self.launched.returncode, self.counted = usage.counted(self.launched.pid)
        self._on_status()

    async def drained(self) -> None:
        """Returns when no process is left and the output has ended or failed. For a killed stage."""
        await self.gone()
        await self.output.settled()

    async def ended(self) -> None:
        """Returns when no process is left and all of the output has been delivered; raises what delivering raised."""
        await self.output.finished()
        await self.gone()

    def explain(self, said: str) -> HermeticError:
        """The error behind a stage that never started; `said` is the end of its output."""
        refused = self.launched.refused() if isinstance(self.launched, Launched) else ""
        return tools.refused(refused) if refused else tools.explain(said)

    def close(self) -> None:
        """Give back every descriptor; the stage must have ended."""
        self._loop.remove_reader(self._status)
        os.close(self._status)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if isinstance(self.launched, Launched):
            self.launched.close()
        self._guard.cancel()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self._guard.done():
            self._guard.set_result(None)

    def _on_status(self) -> None:
        """Bubblewrap writes one JSON object a line, at the end the program's exit code; none if it never started."""
        try:
            chunk = os.read(self._status, 4096)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._status)
        self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.code = said.get("exit-code", self.code)
            if "child-pid" in said and self._on_first is not None:
                self._on_first(said["child-pid"])
