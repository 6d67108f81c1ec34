"""How many answers are computed at once, and how many requests wait for that."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hermetic.serve.openai.errors import ApiError

__all__ = ["Slots"]


class Slots:
    """`capacity` answers at once; up to `waiting` requests wait in the order they came, for `wait_s` seconds each."""

    def __init__(self, capacity: int, waiting: int, wait_s: float) -> None:
        self.capacity = capacity
        self.taken = 0
        self._limit = waiting
        self._wait_s = wait_s
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def take(self, weight: int) -> AsyncIterator[None]:
        """Room for `weight` answers. Raises `ApiError` (429) where the queue is full or the wait too long."""
        await self._enter(weight)
        try:
            yield
        finally:
            self.taken -= weight
            self._admit()

    async def _enter(self, weight: int) -> None:
        if not self._queue and self.taken + weight <= self.capacity:
            self.taken += weight
            return
        if len(self._queue) >= self._limit:
            raise _busy(f"{self._limit} requests are waiting already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((weight, turn))
        try:
            async with asyncio.timeout(self._wait_s):  # wait_for of Python 3.11 may lose a cancellation
                await turn
        except TimeoutError:
            self._leave(weight, turn)
            raise _busy(f"no room within {self._wait_s:g} s") from None
        except asyncio.CancelledError:
            self._leave(weight, turn)
            raise

    def _leave(self, weight: int, turn: asyncio.Future[None]) -> None:
        if not turn.cancelled():
            self.taken -= weight  # it was let in at the very moment
        elif (weight, turn) in self._queue:
            self._queue.remove((weight, turn))
        self._admit()

    def _admit(self) -> None:
        while self._queue and (self._queue[0][1].done() or self.taken + self._queue[0][0] <= self.capacity):
            weight, turn = self._queue.popleft()
            if not turn.done():
                self.taken += weight
                turn.set_result(None)


def _busy(why: str) -> ApiError:
    headers = {"Retry-After": "1"}
    message = f"the server is busy: {why}"
    return ApiError(429, "server_busy", message, kind="rate_limit_error", headers=headers)
