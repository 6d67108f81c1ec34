"""A stand-in for the Triton behind the proxy: tokens that a test chose, and what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.hooks import Timings
from hermetic.serve.openai.upstream import Ask, Made

__all__ = ["StandInUpstream"]


class StandInUpstream:
    """Every request gets `responses`, each some tokens, then `error` if there is one; with `held` it then waits for
    ever. `asked` is what came in, `left` counts those that were given up.
    """

    address = "stand-in:0"

    def __init__(
        self, responses: Sequence[Sequence[int]], *, error: ApiError | Exception | None = None, held: bool = False
    ) -> None:
        self.responses, self.error, self.held = responses, error, held
        self.asked: list[Ask] = []
        self.metadata: list[tuple[str, str]] = []
        self.left = 0
        self.up = True

    async def ready(self) -> bool:
        return self.up

    async def close(self) -> None:
        """Nothing is open."""

    async def generate(
        self, ask: Ask, request_id: str, within_s: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> AsyncGenerator[Made, None]:
        """As `Upstream.generate`. The last response has times: a queue delay of 2 ms."""
        del request_id, within_s
        self.asked.append(ask)
        self.metadata += metadata
        whole = False
        try:
            for index, ids in enumerate(self.responses):
                last = index == len(self.responses) - 1
                timings = Timings(1_000_000, 3_000_000, 4_000_000, 9_000_000) if last else None
                yield Made(ids, [-0.5] * len(ids), timings)
            if self.held:
                await asyncio.get_running_loop().create_future()
            if self.error is not None:
                raise self.error
            whole = True
        finally:
            self.left += not whole
