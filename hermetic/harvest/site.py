"""The real site of a session: a workspace, the processes of the stage that runs in it, and its output."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable

from hermetic.harvest import place, wake
from hermetic.harvest.evidence import Examination, File, Glance
from hermetic.recipe.harvest import Harvest, LogLine
from hermetic.sandbox.processes import Holder, Tree

__all__ = ["RealSite", "Validate"]

#: Runs the declared validator on these files below this folder; what it has against them, or "".
Validate = Callable[[str, tuple[File, ...]], Awaitable[str]]

_LONGEST = 1 << 16  # bytes of a line that is searched


class RealSite:
    """`root` is the workspace, whose ``out``, ``tmp`` and ``home`` are the stage's. Feed it the output (`hear`)."""

    def __init__(self, harvest: Harvest, root: str, validate: Validate) -> None:
        self.tree: Tree | None = None
        self._harvest = harvest
        self._root = root
        self._validate = validate
        self._pattern = re.compile(harvest.complete.pattern) if isinstance(harvest.complete, LogLine) else None
        self._rest = b""
        self._lines: list[int] = []
        self._heard = time.monotonic()
        self._changed = asyncio.Event()

    def hear(self, data: bytes) -> None:
        """What the stage has just printed."""
        self._heard = time.monotonic()
        if self._pattern is None:
            return
        *whole, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[-_LONGEST:]
        now = time.time_ns()
        found = [now for line in whole if self._pattern.search(line.decode("utf-8", "replace"))]
        if found:
            self._lines += found
            self._changed.set()

    def glance(self) -> Glance:
        folder, files, missing, problem = place.find(self._root, self._harvest)
        return Glance(time.monotonic(), self._heard, folder, files, missing, problem, tuple(self._lines))

    def examine(self, glance: Glance) -> Examination:
        contents = {file.name: place.content(self._root, glance.folder, file) for file in glance.files}
        if self.tree is None:
            return Examination(glance, contents)
        names = {(file.device, file.inode): file.name for file in glance.files}
        holders, hidden = self.tree.holders(names)
        return Examination(
            glance,
            contents,
            holders=tuple(_in_words(holder, names) for holder in holders),
            hidden=tuple(hidden),
            killed="a process was killed for memory" if self.tree.out_of_memory() else "",
        )

    async def freeze(self, within: float) -> bool:
        return self.tree is not None and await self.tree.freeze(within)

    def frozen(self) -> bool:
        return self.tree is not None and self.tree.frozen()

    def thaw(self) -> None:
        if self.tree is not None:
            self.tree.thaw()

    async def validate(self, glance: Glance) -> str:
        return await self._validate(os.path.join(self._root, glance.folder), glance.files)

    async def wait(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def listen(self) -> None:
        """Wake the waiting one at file events, until cancelled."""
        tops = sorted({glob.split("/")[0] for glob in self._harvest.folders})
        await wake.listen([os.path.join(self._root, top) for top in tops], self._changed.set)


def _in_words(holder: Holder, names: dict[tuple[int, int], str]) -> str:
    return f"{names[holder.file]}: {holder.how} by process {holder.pid} ({holder.program})"
