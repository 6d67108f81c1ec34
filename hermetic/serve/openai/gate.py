"""What every request passes: its id, its key, and the form of errors."""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from hermetic.serve.openai.errors import ApiError

__all__ = ["Gate", "Keys", "send_error"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Keys:
    """Those that clients may show; without any, none is asked for. All of them change in one step."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self.replace(keys)

    def replace(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def know(self, authorization: str) -> bool:
        """All keys are looked at, each in the same time, so that nothing is learnt from how long it takes."""
        if not self._keys:
            return True
        kind, _, shown = authorization.partition(" ")
        matches = [hmac.compare_digest(shown.strip().encode("latin-1"), key) for key in self._keys]
        return kind.lower() == "bearer" and any(matches)


class Gate:
    """Middleware. A request's id is its ``X-Request-Id`` if that is a sound one, else a new one; every answer has it.

    Paths below ``/v1`` need one of the `keys` as bearer token, if there are any.
    """

    def __init__(self, app: App, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "id": request_id, "headers": headers}
        stamp = (b"x-request-id", request_id.encode())

        async def stamped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), stamp]
            await send(message)

        if scope["path"].startswith("/v1") and not self._keys.know(headers.get("authorization", "")):
            await send_error(stamped, _unknown(headers))
            return
        await self._app(scope, receive, stamped)


def _unknown(headers: Mapping[str, str]) -> ApiError:
    given = "authorization" in headers
    message = "incorrect API key" if given else "no API key: send it as Authorization: Bearer KEY"
    return ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})


async def send_error(send: Send, error: ApiError, more: Mapping[str, str] | None = None) -> None:
    """The whole response."""
    body = error.encoded()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers, **(more or {})}
    listed = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
