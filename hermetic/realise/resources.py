"""How many stages run at once: as many as fit the cores and the memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hermetic.recipe import Stage

__all__ = ["Resources"]


class Resources:
    """Cores and memory (MiB) that running stages share. A stage that wants more than there is runs alone."""

    def __init__(self, cores: int | None = None, memory_mb: int | None = None) -> None:
        self.cores = cores or len(os.sched_getaffinity(0))
        self.memory_mb = memory_mb or _memory_mb()
        self._free_cores = self.cores
        self._free_memory = self.memory_mb
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def use(self, stage: Stage) -> AsyncIterator[None]:
        cores, memory = min(stage.cores, self.cores), min(stage.memory_mb, self.memory_mb)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free_cores >= cores and self._free_memory >= memory)
            self._free_cores -= cores
            self._free_memory -= memory
        try:
            yield
        finally:
            async with self._changed:
                self._free_cores += cores
                self._free_memory += memory
                self._changed.notify_all()


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
