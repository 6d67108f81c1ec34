"""Cores and memory are shared by running stages, whatever ends or is cancelled in whatever order."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from hermetic.realise.resources import Resources


def stage(cores=1, memory_mb=1):
    return SimpleNamespace(cores=cores, memory_mb=memory_mb)


class Running:
    """Stages that run until they are told to end."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.now: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, **share: int) -> None:
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._run(name, stage(**share)))
        await settle()

    async def _run(self, name: str, what) -> None:
        async with self.resources.use(what):
            self.now.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.now.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settle()

    def cancel(self, name: str) -> None:
        self._tasks[name].cancel()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_as_many_as_fit_and_in_the_order_they_came() -> None:
    async def main() -> None:
        running = Running(Resources(2, 100))
        for name in "abcd":
            await running.start(name)
        assert running.now == ["a", "b"]
        await running.end("b")
        assert running.now == ["a", "c"]
        await running.end("a")
        assert running.now == ["c", "d"]

    asyncio.run(main())


def test_a_stage_that_wants_too_much_runs_alone_and_a_small_one_goes_before_it() -> None:
    async def main() -> None:
        running = Running(Resources(2, 100))
        await running.start("a", memory_mb=60)
        await running.start("large", cores=9, memory_mb=900)
        await running.start("small", memory_mb=40)
        await running.start("later", memory_mb=40)
        assert running.now == ["a", "small"]
        await running.end("small")
        assert running.now == ["a", "later"]
        await running.end("later")
        await running.end("a")
        assert running.now == ["large"]

    asyncio.run(main())


def test_who_is_cancelled_as_its_turn_comes_gives_it_on() -> None:
    async def main() -> None:
        running = Running(Resources(1, 100))
        for name in "abc":
            await running.start(name)
        running._ends["a"].set()
        await asyncio.sleep(0)  # a has ended and given its share to b, which has not run yet
        running.cancel("b")
        await settle()
        assert running.now == ["c"]

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_given_twice(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        resources = Resources(3, 10)
        running = Running(resources)
        for number in range(60):
            await running.start(str(number), cores=chance.randint(1, 4), memory_mb=chance.randint(1, 12))
            for name in list(running.now):
                if chance.random() < 0.5:
                    running._ends[name].set()
            if chance.random() < 0.4:
                running.cancel(str(chance.randint(0, number)))
            await asyncio.sleep(0)
        await settle()
        while running.now:
            await running.end(running.now[0])
        assert (resources._free_cores, resources._free_memory, resources._waiting) == (3, 10, {})

    asyncio.run(main())
