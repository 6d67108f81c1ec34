"""How calls to Triton end, as a stand-in for its gRPC front end sees it: none is cancelled that can be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from hermetic.serve.openai import stream
from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.upstream import Ask, Made, Upstream
from hermetic.testing.triton.calls import StandInCall, StandInCalls

REQUIRED = ("input_ids", "input_lengths", "request_output_len", "streaming")
Test = Callable[[StandInCalls, Upstream], Awaitable[None]]


@asynccontextmanager
async def proxied(server: StandInCalls) -> AsyncIterator[Upstream]:
    async with server.listening() as address:
        upstream = Upstream(address, ())
        try:
            yield upstream
        finally:
            await upstream.close()


def run(test: Test, *inputs: str, deaf: bool = False) -> None:
    async def main() -> None:
        server = StandInCalls(*REQUIRED, *inputs, deaf=deaf)
        async with proxied(server) as upstream:
            await test(server, upstream)

    asyncio.run(asyncio.wait_for(main(), 60))


def asked(upstream: Upstream, within_s: float = 60) -> AsyncGenerator[Made, None]:
    return upstream.generate(Ask([1, 2], 100), "a", within_s)


async def begun(server: StandInCalls, answer: AsyncGenerator[Made, None]) -> StandInCall:
    """Its call, after the first token has come through."""
    first = asyncio.ensure_future(anext(answer))
    call = await server.calls.get()
    await call.say(7)
    assert list((await first).ids) == [7]
    return call


async def stopped(call: StandInCall) -> None:
    """By a request of the same id on the same stream."""
    await call.ended.wait()
    assert (len(call.asked), call.stopped) == (1, call.asked)
    assert call.closed
    assert not call.cancelled


def test_an_answer_that_is_whole() -> None:
    """Nothing is stopped; the client closes its side after the last response, and the answer does not wait for it."""

    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answer = asked(upstream)
        call = await begun(server, answer)
        await call.say(8)
        await call.say(9, last=True)
        assert [list(made.ids) async for made in answer] == [[8], [9]]
        await call.ended.wait()
        assert (call.stopped, call.closed, call.cancelled) == ([], True, False)

    run(test, "stop")


def test_one_that_is_left_is_stopped() -> None:
    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answer = asked(upstream)
        call = await begun(server, answer)
        await answer.aclose()
        await stopped(call)

    run(test, "stop")


def test_one_that_is_left_before_its_first_token() -> None:
    """By its task being cancelled, as it is when a client goes."""

    async def test(server: StandInCalls, upstream: Upstream) -> None:
        async def client() -> None:
            async with aclosing(asked(upstream)) as answer:
                await anext(answer)

        waiting = asyncio.ensure_future(client())
        call = await server.calls.get()
        waiting.cancel()
        await stopped(call)

    run(test, "stop")


def test_one_that_is_left_while_it_is_sent() -> None:
    async def test(server: StandInCalls, upstream: Upstream) -> None:
        await upstream.wanted()
        waiting = asyncio.ensure_future(anext(asked(upstream)))
        await asyncio.sleep(0)  # the call is to be made in the next turn of the loop
        waiting.cancel()
        await stopped(await server.calls.get())

    run(test, "stop")


def test_a_deadline_stops() -> None:
    async def test(server: StandInCalls, upstream: Upstream) -> None:
        with pytest.raises(ApiError) as error:
            await anext(asked(upstream, 0.2))
        assert (error.value.status, error.value.code) == (504, "timeout")
        await stopped(await server.calls.get())

    run(test, "stop")


def test_an_end_of_the_proxy_stops() -> None:
    """Whoever still waits is told that the engine is not there."""

    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answer = asked(upstream)
        call = await begun(server, answer)
        rest = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        await upstream.close()
        await stopped(call)
        with pytest.raises(ApiError) as error:
            await rest
        assert (error.value.status, error.value.code) == (503, "upstream_unavailable")

    run(test, "stop")


def test_a_model_that_does_not_stop_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE_S", 0.1)

    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answer = asked(upstream)
        call = await begun(server, answer)
        await answer.aclose()
        await call.ended.wait()
        assert call.cancelled

    run(test, "stop", deaf=True)


@pytest.mark.parametrize("late", [False, True])
def test_a_model_without_the_input_is_cancelled(late: bool) -> None:
    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answer = asked(upstream)
        call = await begun(server, answer)
        if late:
            (running,) = upstream._streams
            running._late()  # whose time is up
            with pytest.raises(ApiError) as error:
                await anext(answer)
            assert error.value.status == 504
        await answer.aclose()
        await call.ended.wait()
        assert (call.stopped, call.closed, call.cancelled) == ([], True, True)

    run(test)


def test_a_request_that_triton_refuses_is_over() -> None:
    async def test(server: StandInCalls, upstream: Upstream) -> None:
        first = asyncio.ensure_future(anext(asked(upstream)))
        call = await server.calls.get()
        await call.refuse("the queue is full")
        with pytest.raises(ApiError) as error:
            await first
        assert (error.value.status, error.value.code) == (502, "upstream_error")
        await call.ended.wait()
        assert (call.stopped, call.closed, call.cancelled) == ([], True, False)

    run(test, "stop")


def test_requests_of_one_id_have_two_in_triton() -> None:
    """A client may have said the id; stopping one must not stop another's."""

    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answers = [asked(upstream), asked(upstream)]
        calls = [await begun(server, answer) for answer in answers]
        assert calls[0].asked != calls[1].asked
        await answers[0].aclose()
        await stopped(calls[0])
        assert not calls[1].stopped

    run(test, "stop")


def test_whoever_takes_its_time_gets_everything() -> None:
    """Though no more than some is read ahead of it."""

    async def test(server: StandInCalls, upstream: Upstream) -> None:
        answer = asked(upstream)
        call = await begun(server, answer)
        for number in range(1000):
            await call.say(number)
        await call.say(1000, last=True)
        assert [made.ids[0] async for made in answer] == list(range(1001))

    run(test, "stop")


def test_a_mistake_of_ours_is_no_end() -> None:
    def start() -> None:
        raise RuntimeError("of a test")

    async def test(_: StandInCalls, __: Upstream) -> None:
        with pytest.raises(RuntimeError, match="of a test"):
            await stream.Stream(start, None, None, 60).next()

    run(test)
