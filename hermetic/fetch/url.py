"""One file at an ``https://`` address (on loopback ``http://`` will do)."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx2 as httpx

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.bring import hashed
from hermetic.fetch.origin import BrokenError, HttpOrigin, unreachable
from hermetic.recipe.lockfile import FixedEntry, LockedFile, is_safe_path

__all__ = ["Url", "resolve_url"]

_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.2


class Url(HttpOrigin):
    """The address; logins are those of ``NETRC``, proxies and certificates those of the environment."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            message = f"{address} is not asked over http, where anybody on the way may answer"
            raise HermeticError(Domain.TRUST, "plain-http", message, hint="write https://")
        super().__init__(address)
        self._address = address

    @property
    def name(self) -> str:
        """What the file is called: the last part of the path."""
        name = unquote(urlsplit(self._address).path.rpartition("/")[2])
        return name if is_safe_path(name) else "file"

    def make_client(self) -> httpx.Client:
        return httpx.Client(follow_redirects=True, headers={"User-Agent": "hermetic"})

    def request(self, path: str) -> tuple[str, Mapping[str, str]]:  # noqa: ARG002  # there is one
        return self._address, {}

    def judge(self, response: httpx.Response, path: str) -> None:  # noqa: ARG002  # as above
        if response.status_code in {401, 403}:
            message = f"{self.described} may not be read (status {response.status_code})"
            raise HermeticError(Domain.ENVIRONMENT, "origin-denied", message, hint="put a login into ~/.netrc")
        if response.status_code in {404, 410}:
            message = f"{self.described} is not there (status {response.status_code})"
            raise HermeticError(Domain.ENVIRONMENT, "origin-no-file", message, hint="check the address")


def resolve_url(address: str) -> FixedEntry:
    """What is at `address` now: there is nobody to ask for its hash, so it is read once, and kept nowhere.

    Raises `HermeticError`: environment/origin-…, trust/plain-http.
    """
    with closing(Url(address)) as origin:
        for attempt in range(_ATTEMPTS):
            digest = hashlib.sha256()
            try:
                with origin.stream("", 0) as (_, pieces):
                    file = LockedFile(size=hashed(pieces, digest), sha256=digest.hexdigest(), origin="fetched")
                return FixedEntry(files={origin.name: file}, source=address)
            except BrokenError as error:
                if attempt == _ATTEMPTS - 1:
                    raise unreachable(origin.described, str(error)) from error
                time.sleep(error.wait if error.wait is not None else _PAUSE_S * 2**attempt)
    raise AssertionError


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
