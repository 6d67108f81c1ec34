"""One request to Triton on a stream of its own, which can be given up without cancelling the call.

Triton's gRPC front end has crashed when calls were cancelled while responses were written (docs/adr/0033), so a call is
read to its end by a task that nobody cancels; a model with the input ``stop`` is asked by a second request on the same
stream to end the first, as TensorRT-LLM's backend has it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import grpc

__all__ = ["Ended", "Late", "Stream"]

#: For a request that is to stop: a model looks between two steps, and the first step of a long prompt takes a while.
PATIENCE_S: Final = 10.0
#: Responses that are read ahead of who takes them; after that Triton keeps them.
_AHEAD: Final = 64
_FINAL: Final = "triton_final_response"
#: What writing says to a call that has ended; reading tells why.
_BROKEN: Final = (grpc.aio.BaseError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


class Ended(Exception):  # noqa: N818  # ours by `leave`, or a connection that was closed
    """The stream ended before the answer."""


class Late(Exception):  # noqa: N818  # no mistake of anybody
    """The answer took longer than it may."""


class Stream:
    """Asks `request` on the call that `start` makes. `stop` is the request that ends it; without one `leave` cancels
    the call. `task` is done when Triton has nothing left of it, at the latest `PATIENCE_S` after `leave`.
    """

    def __init__(self, start: Callable[[], Any], request: Any, stop: Any | None, within_s: float) -> None:
        self._start, self._request, self._stop = start, request, stop
        self._call: Any = None
        self._open = 0  # requests that were sent, or are about to be, and have no last response yet
        self._sent = self._left = False
        self._ahead: deque[tuple[Any, bool]] = deque()
        self._failure: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(within_s, self._late)
        self.task = self._loop.create_task(self._run())

    async def next(self) -> tuple[Any, bool]:
        """The next response, and whether it is the last, after which there is none.

        Raises `Late`, `Ended`, `grpc.aio.AioRpcError`.
        """
        while not self._ahead:
            if self._failure is not None:
                raise self._failure
            if self.task.done():
                if not self.task.cancelled():
                    self.task.result()  # a mistake of ours is told as one
                raise Ended
            self._news = self._loop.create_future()
            await self._news
        if self._room is not None and len(self._ahead) <= _AHEAD // 2:
            _set(self._room)
        return self._ahead.popleft()

    def leave(self) -> None:
        """No more is wanted. Does not wait, and may be said again."""
        if self._left:
            return
        self._left = True
        self._timer.cancel()
        self._ahead.clear()
        _set(self._room)
        if self._sent and self._open and not self.task.done():
            self._end()

    def _end(self) -> None:
        if self._stop is None:
            self._call.cancel()
            return
        self._open += 1
        self._stopping = self._loop.create_task(self._write(self._stop))
        self._timer = self._loop.call_later(PATIENCE_S, self._call.cancel)

    def _late(self) -> None:
        self._failure = Late()
        self.leave()
        _set(self._news)

    async def _run(self) -> None:
        try:
            if not self._left:  # else there is nothing to end
                await self._converse()
        except grpc.aio.AioRpcError as error:
            self._failure = self._failure or error
        except grpc.aio.UsageError:  # the channel was closed meanwhile
            pass
        finally:
            self._timer.cancel()
            self._loop.call_soon(_set, self._news)  # when this task is done

    async def _converse(self) -> None:
        self._call = call = self._start()
        self._open += 1
        await self._write(self._request)
        self._sent = True
        if self._stop is None:
            await self._written()
        if self._left:
            self._end()
        while (response := await call.read()) is not grpc.aio.EOF:
            last = _is_last(response)
            if not self._left:
                self._ahead.append((response, last))
                _set(self._news)
            if last:
                self._open -= 1
                if not self._open and self._stop is not None:
                    await self._written()
            elif len(self._ahead) >= _AHEAD:
                self._room = self._loop.create_future()
                await self._room

    async def _write(self, request: Any) -> None:
        with contextlib.suppress(*_BROKEN):
            await self._call.write(request)

    async def _written(self) -> None:
        if self._stopping is not None:
            await self._stopping
        with contextlib.suppress(*_BROKEN):
            await self._call.done_writing()


def _set(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _is_last(response: Any) -> bool:
    """Whether no more comes for its request; an error of Triton's own, before the model has it, does not say so."""
    parameters = response.infer_response.parameters
    return parameters[_FINAL].bool_param if _FINAL in parameters else bool(response.error_message)
