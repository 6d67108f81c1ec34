"""``POST /v1/chat/completions`` and ``/v1/completions``: read, answered, and given up when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from hermetic.serve.openai.answer import Answer, Asked
from hermetic.serve.openai.bodies import read_json
from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.gate import Receive, Scope, Send, send_error
from hermetic.serve.openai.settings import ProxySettings
from hermetic.serve.openai.slots import Slots

__all__ = ["Endpoint"]

_KEEP_ALIVE_S = 15.0  #: Intermediaries take a silent connection for a dead one.
_GRACE_S = 5.0  #: For the last pieces of an answer that took as long as it may.
_PATIENCE = 16  #: How much more than the limit is read of a body, and forgotten.
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
Prepare = Callable[[Asked], Awaitable[Answer]]


class Endpoint:
    """An ASGI application. `prepare` makes a request an answer, or raises `ApiError`; `refused` hears of that."""

    def __init__(
        self,
        name: str,
        slots: Slots,
        settings: ProxySettings,
        prepare: Prepare,
        refused: Callable[[str, ApiError], None],
    ) -> None:
        self._name, self._slots = name, slots
        self._limit, self._deadline_s = settings.body_bytes, settings.deadline_s
        self._prepare, self._refused = prepare, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        try:
            data = await self._in_time(self._read(receive, state["headers"]))
            asked = Asked(state["id"], self._name, read_json(data), state["headers"], len(data))
            answer = await self._prepare(asked)
        except _Gone:
            return
        except ApiError as error:
            self._refused(self._name, error)
            await send_error(send, error)
            return
        try:
            await _unless_gone(receive, self._answer(answer, send), self._deadline_s + _GRACE_S)
        finally:
            answer.abandon()

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await reading
        except TimeoutError:
            message = f"the request did not come within {self._deadline_s:g} s"
            raise ApiError(408, "request_timeout", message, headers={"Connection": "close"}) from None

    async def _read(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """What is too long is read on for a while: clients look for an answer only when they have sent all."""
        length = headers.get("content-length", "0")
        most = _PATIENCE * self._limit
        if length.isdigit() and int(length) > most:
            raise self._too_long()
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            data = message.get("body", b"")
            size += len(data)
            if size <= self._limit:
                chunks.append(data)
            if size > most or (size > self._limit and not message.get("more_body")):
                raise self._too_long()
            if not message.get("more_body"):
                return b"".join(chunks)

    def _too_long(self) -> ApiError:
        message = f"a request may have {self._limit} bytes"
        return ApiError(413, "request_too_large", message, headers={"Connection": "close"})

    async def _answer(self, answer: Answer, send: Send) -> None:
        headers = {**answer.engine.headers, **answer.headers}
        try:
            if answer.body.stream:
                async with contextlib.aclosing(answer.stream(self._slots)) as pieces:
                    await _send_stream(send, pieces, headers)
            else:
                said = await answer.whole(self._slots)
                await _send_json(send, said, headers)
        except ApiError as error:
            await send_error(send, error, headers)


class _Gone(Exception):  # noqa: N818  # no error of ours
    """The client went before it had said what it wants."""


async def _unless_gone(receive: Receive, work: Any, within_s: float) -> None:
    """Do it, or give it up when the client goes, or takes so long to read that it might as well have gone."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, gone), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
        await asyncio.wait((working, gone))
    if not working.cancelled():
        working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_json(send: Send, said: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    body = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
    await send(_start(200, {"content-type": "application/json", "content-length": str(len(body)), **headers}))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: Mapping[str, str]) -> MutableMapping[str, Any]:
    listed = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": listed}


async def _send_stream(send: Send, pieces: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
    """Nothing is sent before there is a piece, so that an error has its own status; but after a while of silence the
    stream is opened with comments.
    """
    start = _start(200, {**_STREAM_HEADERS, **headers})
    first = asyncio.ensure_future(anext(pieces, b""))
    begun = False
    try:
        while not (await asyncio.wait((first,), timeout=_KEEP_ALIVE_S))[0]:
            if not begun:
                await send(start)
                begun = True
            await send(_body(b": still waiting\n\n"))
        data = await _shown(first) if begun else await first
        if not begun:
            await send(start)
        await send(_body(data))
        async for piece in pieces:
            await send(_body(piece))
        await send({"type": "http.response.body", "body": b""})
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait((first,))


async def _shown(first: asyncio.Future[bytes]) -> bytes:
    """An error is a piece by now."""
    try:
        return await first
    except ApiError as error:
        return b"data: " + error.encoded() + b"\n\n"


def _body(data: bytes) -> MutableMapping[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}
