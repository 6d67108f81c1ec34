"""How many stages run at once: as many as fit the cores and the memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from hermetic.recipe import Stage
from hermetic.sandbox import cgroup

__all__ = ["Resources"]


class _Share(NamedTuple):
    cores: int
    memory_mb: int


class Resources:
    """Cores and memory (MiB) that running stages share. A stage that wants more than there is runs alone."""

    def __init__(self, cores: int | None = None, memory_mb: int | None = None) -> None:
        self.cores = cores or len(os.sched_getaffinity(0))
        self.memory_mb = memory_mb or _memory_mb()
        self._free_cores = self.cores
        self._free_memory = self.memory_mb
        # Each waits for a future of its own: to wake all of them for every stage that ends is quadratic.
        self._waiting: dict[asyncio.Future[None], _Share] = {}

    @asynccontextmanager
    async def use(self, stage: Stage) -> AsyncIterator[None]:
        """Wait until `stage` fits, and keep its share while it runs."""
        share = _Share(min(stage.cores, self.cores), min(stage.memory_mb, self.memory_mb))
        await self._take(share)
        try:
            yield
        finally:
            self._give_back(share)

    async def _take(self, share: _Share) -> None:
        if self._fits(share):
            self._hold(share)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = share
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:  # its turn came just before
                self._give_back(share)
            raise

    def _give_back(self, share: _Share) -> None:
        self._free_cores += share.cores
        self._free_memory += share.memory_mb
        for turn in self._next():
            del self._waiting[turn]
            if not turn.done():  # else it was cancelled just now, and gives its share back itself
                turn.set_result(None)

    def _next(self) -> list[asyncio.Future[None]]:
        """Those whose turn it is, in the order in which they came; their shares are taken."""
        found = []
        for turn, share in self._waiting.items():
            if not self._free_cores:
                break
            if self._fits(share):
                self._hold(share)
                found.append(turn)
        return found

    def _fits(self, share: _Share) -> bool:
        return share.cores <= self._free_cores and share.memory_mb <= self._free_memory

    def _hold(self, share: _Share) -> None:
        self._free_cores -= share.cores
        self._free_memory -= share.memory_mb


def _memory_mb() -> int:
    """What this process may use: a container has less than its machine."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, cgroup.allowed() or machine) >> 20
