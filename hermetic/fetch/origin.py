"""Where files of fixed outputs come from, as everything that brings them sees it; and the origins that speak HTTP."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol

import httpx2 as httpx

from hermetic.errors import Domain, HermeticError

__all__ = ["BrokenError", "HttpOrigin", "Origin", "unreachable", "wait_of"]

_TIMEOUT: Final = httpx.Timeout(60, connect=20)
_RATE_LIMIT: Final = re.compile(r"; *r *= *0 *; *t *= *([0-9]+)")
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class BrokenError(Exception):
    """Trying again may help, after `wait` seconds if the other side said so. The text names no address: it may be
    signed.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Origin(Protocol):
    """One repository, prefix or address. Methods may be called from any thread."""

    described: str

    def stream(
        self, path: str, offset: int, count: int | None = None
    ) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """The bytes of the file at `path` from `offset` on, and where they really begin: at 0 if it cannot skip. With
        `count` no more than that many are asked for; there may be more all the same.

        Raises `BrokenError`, then or while they are read, when trying again may help; `HermeticError` when not.
        """
        ...

    def abort(self) -> None:
        """Let everything that waits for the other side fail at once, and whatever is asked from now on."""
        ...

    def close(self) -> None:
        """Give connections back. Nothing is asked after that."""
        ...


class HttpOrigin:
    """Files by GET with ranges; subclasses say where they lie and what refusals mean."""

    def __init__(self, described: str) -> None:
        self.described = described
        self._guard = threading.Lock()
        self._client: httpx.Client | None = None
        self._connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._aborted = False

    def make_client(self) -> httpx.Client:
        """A client that nobody else uses: `abort` ends all of its connections."""
        raise NotImplementedError

    def request(self, path: str) -> tuple[str, Mapping[str, str]]:
        """Address and headers for the file at `path`."""
        raise NotImplementedError

    def judge(self, response: httpx.Response, path: str) -> None:
        """Raise what an answer that is neither 200 nor 206, nor asks to wait, means."""
        raise NotImplementedError

    @contextmanager
    def stream(self, path: str, offset: int, count: int | None = None) -> Iterator[tuple[int, Iterator[bytes]]]:
        """As `Origin` says."""
        url, headers = self.request(path)
        asked = {**headers, "Accept-Encoding": "identity"}
        if offset or count is not None:
            asked["Range"] = f"bytes={offset}-{offset + count - 1 if count is not None else ''}"
        noted = {"trace": self._note}
        with (
            self.speaking(),
            self._session().stream("GET", url, headers=asked, timeout=_TIMEOUT, extensions=noted) as response,
        ):
            self._check(response, path)
            yield offset if response.status_code == 206 else 0, response.iter_raw()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Failures of the connection inside are `BrokenError`."""
        if self._aborted:
            raise BrokenError("stopped")
        try:
            yield
        except (httpx.TransportError, httpx.StreamError) as error:
            untrusted = isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error)
            if untrusted:
                raise unreachable(self.described, "its certificate is not trusted") from error
            raise BrokenError(type(error).__name__) from error

    def _session(self) -> httpx.Client:
        with self._guard:
            if self._client is None:
                self._client = self.make_client()
            return self._client

    def _note(self, event: str, info: Mapping[str, Any]) -> None:
        """Of each connection, from when there is one: whoever waits for an answer on it must be stoppable too."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        connection = info["return_value"].get_extra_info("socket")
        with self._guard:
            self._connections.add(connection)
            if self._aborted:  # meanwhile
                _shut(connection.shutdown)

    def _check(self, response: httpx.Response, path: str) -> None:
        if response.status_code in {200, 206}:
            return
        if response.status_code in _BUSY:
            raise BrokenError(f"status {response.status_code}", wait_of(response.headers))
        self.judge(response, path)
        message = f"{self.described} answered {response.status_code} when asked for {path}"
        raise HermeticError(Domain.ENVIRONMENT, "origin-failed", message, hint="try again later")

    def abort(self) -> None:
        """As `Origin` says."""
        self._aborted = True
        with self._guard:
            for connection in self._connections:
                _shut(connection.shutdown)

    def close(self) -> None:
        """As `Origin` says."""
        with self._guard:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _shut(shutdown: Callable[[int], None]) -> None:
    try:
        shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


def wait_of(headers: Mapping[str, str]) -> float | None:
    """The seconds that the other side asks to wait, None if it does not say: ``Retry-After``, a number or a date, or
    the ``RateLimit`` of an exhausted window (RFC 9110, 10.2.3; the Hub's: huggingface.co/docs/hub/rate-limits).
    """
    said = headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        left = _RATE_LIMIT.search(headers.get("RateLimit", ""))
        return float(left[1]) if left is not None else None


def unreachable(described: str, why: str) -> HermeticError:
    """What to say when `described` did not answer, however often it was tried."""
    hint = "check the network, HTTPS_PROXY and NO_PROXY; a private CA belongs in SSL_CERT_FILE"
    return HermeticError(Domain.ENVIRONMENT, "origin-unreachable", f"{described} cannot be reached ({why})", hint=hint)
