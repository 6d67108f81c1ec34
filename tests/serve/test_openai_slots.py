"""How many answers are computed at once, and who waits."""

from __future__ import annotations

import asyncio

import pytest

from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.slots import Slots


async def use(slots: Slots, seen: list[str], name: str, weight: int, until: asyncio.Event) -> None:
    async with slots.take(weight):
        seen.append(name)
        await until.wait()


async def turn() -> None:
    """Everybody who can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_who_waits_comes_in_turn() -> None:
    """A request of several answers is not overtaken for ever by those of one."""

    async def main() -> None:
        slots, seen = Slots(4, 10, 60), list[str]()
        ends = {name: asyncio.Event() for name in "abcd"}
        tasks = []
        for name, weight in (("a", 3), ("b", 4), ("c", 1), ("d", 1)):
            tasks.append(asyncio.ensure_future(use(slots, seen, name, weight, ends[name])))
            await turn()
        assert (seen, slots.taken, slots.waiting) == (["a"], 3, 3)
        ends["a"].set()
        await turn()
        assert (seen, slots.taken, slots.waiting) == (["a", "b"], 4, 2)
        ends["b"].set()
        await turn()
        assert (seen, slots.taken, slots.waiting) == (["a", "b", "c", "d"], 2, 0)
        ends["c"].set()
        ends["d"].set()
        await asyncio.gather(*tasks)
        assert slots.taken == 0

    asyncio.run(main())


@pytest.mark.parametrize(("waiting", "says"), [(0, "waiting already"), (1, "no room within")])
def test_a_full_house(waiting: int, says: str) -> None:
    async def main() -> None:
        slots = Slots(1, waiting, 0.01)
        async with slots.take(1):
            with pytest.raises(ApiError, match=says) as caught:
                async with slots.take(1):
                    pytest.fail("there is no room")
        assert (caught.value.status, caught.value.code) == (429, "server_busy")
        assert caught.value.headers == {"Retry-After": "1"}
        assert (slots.taken, slots.waiting) == (0, 0)

    asyncio.run(main())


def test_who_goes_while_waiting_leaves_no_trace() -> None:
    async def main() -> None:
        slots, seen, end = Slots(1, 10, 60), list[str](), asyncio.Event()
        first = asyncio.ensure_future(use(slots, seen, "a", 1, end))
        await turn()
        gone = asyncio.ensure_future(use(slots, seen, "b", 1, end))
        await turn()
        gone.cancel()
        await asyncio.wait([gone])
        end.set()
        await first
        let_in_and_gone = asyncio.ensure_future(use(slots, seen, "c", 1, asyncio.Event()))
        await turn()
        let_in_and_gone.cancel()
        await asyncio.wait([let_in_and_gone])
        assert (seen, slots.taken, slots.waiting) == (["a", "c"], 0, 0)

    asyncio.run(main())


def test_room_that_comes_as_one_goes() -> None:
    """Let in and cancelled in the same moment."""

    async def main() -> None:
        slots, end = Slots(1, 10, 60), asyncio.Event()
        first = asyncio.ensure_future(use(slots, [], "a", 1, end))
        await turn()
        second = asyncio.ensure_future(use(slots, [], "b", 1, asyncio.Event()))
        await turn()
        end.set()
        await first  # the second has been let in, and has not run since
        second.cancel()
        await asyncio.wait([second])
        assert (slots.taken, slots.waiting) == (0, 0)

    asyncio.run(main())
