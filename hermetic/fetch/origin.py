"""Where files of fixed outputs come from, as everything that brings them sees it; and the origins that speak HTTP."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

import httpx2 as httpx

from hermetic.errors import Domain, HermeticError

__all__ = ["BrokenError", "HttpOrigin", "Origin", "unreachable"]

_TIMEOUT: Final = httpx.Timeout(60, connect=20)
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
        self._open: set[socket.socket] = set()
        self._aborted = False

    def session(self) -> httpx.Client:
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
        with (
            self.speaking(),
            self.session().stream("GET", url, headers=asked, timeout=_TIMEOUT) as response,
            self._breakable(response),
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

    @contextmanager
    def _breakable(self, response: httpx.Response) -> Iterator[None]:
        stream = response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is None:
            yield
            return
        with self._guard:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._guard:
                self._open.discard(connection)

    def _check(self, response: httpx.Response, path: str) -> None:
        if response.status_code in {200, 206}:
            return
        if response.status_code in _BUSY:
            said = response.headers.get("Retry-After", "")
            raise BrokenError(f"status {response.status_code}", float(said) if said.isdigit() else None)
        self.judge(response, path)
        message = f"{self.described} answered {response.status_code} when asked for {path}"
        raise HermeticError(Domain.ENVIRONMENT, "origin-failed", message, hint="try again later")

    def abort(self) -> None:
        """As `Origin` says."""
        self._aborted = True
        with self._guard:
            for connection in self._open:
                _shut(connection.shutdown)

    def close(self) -> None:
        """As `Origin` says; who has a session of its own closes it."""


def _shut(shutdown: Callable[[int], None]) -> None:
    try:
        shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


def unreachable(described: str, why: str) -> HermeticError:
    """What to say when `described` did not answer, however often it was tried."""
    hint = "check the network, HTTPS_PROXY and NO_PROXY; a private CA belongs in SSL_CERT_FILE"
    return HermeticError(Domain.ENVIRONMENT, "origin-unreachable", f"{described} cannot be reached ({why})", hint=hint)
