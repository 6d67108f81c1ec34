"""Objects of S3-compatible stores and of Google Cloud Storage, through obstore (the ``objects`` extra)."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.bring import hashed
from hermetic.fetch.origin import BrokenError, unreachable
from hermetic.recipe.lockfile import FixedEntry, LockedFile, is_safe_path

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Objects", "resolve_objects"]

T = TypeVar("T")

_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.2
_PIECE: Final = 1 << 18
#: The time of one request with its body: what takes longer is taken up where it ended. Plain HTTP only where the user's
#: own endpoint is one, in a cluster say: requests are signed, and the bytes are hashed.
_OPTIONS: Final = {"timeout": "120s", "connect_timeout": "20s", "allow_http": True}


class Objects:
    """All objects below ``s3://bucket/prefix/`` (``gs://…``), or without the last slash one.

    Endpoint, region and credentials are those of the environment as obstore reads it: ``AWS_ENDPOINT_URL``,
    ``AWS_ACCESS_KEY_ID``, ``GOOGLE_APPLICATION_CREDENTIALS`` and so on, else what the machine itself is allowed.
    """

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        bucket, _, key = rest.partition("/")
        self.described = address
        self._store = _open(f"{scheme}://{bucket}")
        self._prefix = key if key.endswith("/") else key.rpartition("/")[0] + "/" * ("/" in key)
        self._single = "" if key.endswith("/") else key.rpartition("/")[2]
        self._aborted = False

    def list(self) -> dict[str, int]:
        """Sizes in bytes by path below the prefix. Raises `HermeticError`: environment/origin-…, trust/unsafe-path."""
        return _again(self.described, self._list)

    def _list(self) -> dict[str, int]:
        import obstore  # noqa: PLC0415  # slow to import, and optional

        found = {}
        with self._explained(self._single or self._prefix):
            if self._single:
                found[self._single] = obstore.head(self._store, self._prefix + self._single)["size"]
            else:
                for batch in obstore.list(self._store, prefix=self._prefix):
                    found |= {item["path"].removeprefix(self._prefix): item["size"] for item in batch}
        if not found:
            raise self._nothing(self._prefix)
        for path in found:
            if not is_safe_path(path):
                message = f"{self.described} has an object whose name leads out of its folder: {path!r}"
                raise HermeticError(Domain.TRUST, "unsafe-path", message)
        return found

    @contextmanager
    def stream(self, path: str, offset: int, count: int | None = None) -> Iterator[tuple[int, Iterator[bytes]]]:
        """As `Origin` says."""
        import obstore  # noqa: PLC0415  # as above

        options: Any = {}
        if count is not None:
            options = {"range": (offset, offset + count)}
        elif offset:
            options = {"range": {"offset": offset}}
        with self._explained(path):
            found = obstore.get(self._store, self._prefix + path, options=options)
            yield offset, self._pieces(found.stream(min_chunk_size=_PIECE))

    def _pieces(self, stream: Any) -> Iterator[bytes]:
        for piece in stream:
            if self._aborted:
                raise BrokenError("stopped")
            yield bytes(piece)

    def abort(self) -> None:
        """As `Origin` says, with the next piece that comes."""
        self._aborted = True

    def close(self) -> None:
        """Obstore has nothing to close."""

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """What obstore raises, in our words: its own may hold an address with a signature."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError  # noqa: PLC0415  # as above

        try:
            yield
        except FileNotFoundError:
            raise self._nothing(path) from None
        except (PermissionDeniedError, UnauthenticatedError, PermissionError):
            message = f"{self.described} may not be read with the credentials of the environment"
            hint = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS"
            raise HermeticError(Domain.ENVIRONMENT, "origin-denied", message, hint=hint) from None
        except BaseError as error:
            if "status code: 404" in str(error):  # a bucket that is not there, which has no class of its own
                raise self._nothing(path) from None
            raise BrokenError(type(error).__name__) from None

    def _nothing(self, path: str) -> HermeticError:
        message = f"{self.described} is not there: no object {path!r}" + " or below it" * path.endswith("/")
        return HermeticError(Domain.ENVIRONMENT, "origin-no-file", message, hint="check the address")


def resolve_objects(address: str, chosen: Callable[[FixedEntry], set[str]], known: FixedEntry | None) -> FixedEntry:
    """What is at `address` now. Nobody vouches for a sha256 there, so what `chosen` picks is read once to hash it.

    Raises `HermeticError`: environment/origin-…, environment/no-obstore, trust/unsafe-path.
    """
    origin = Objects(address)
    if known is None:
        known = FixedEntry(files={p: LockedFile(size=size) for p, size in origin.list().items()}, source=address)
    missing = sorted(name for name in chosen(known) if not known.files[name].sha256)
    hashes = {name: _again(origin.described, partial(_hashed, origin, name)) for name in missing}
    return known.model_copy(update={"files": known.files | hashes})


def _hashed(origin: Objects, path: str) -> LockedFile:
    digest = hashlib.sha256()
    with origin.stream(path, 0) as (_, pieces):
        size = hashed(pieces, digest)
    return LockedFile(size=size, sha256=digest.hexdigest(), origin="fetched")


def _again(described: str, ask: Callable[[], T]) -> T:
    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except BrokenError as error:
            if attempt == _ATTEMPTS - 1:
                raise unreachable(described, str(error)) from error
            time.sleep(_PAUSE_S * 2**attempt)
    raise AssertionError


def _open(bucket: str) -> ObjectStore:
    try:
        from obstore.store import from_url  # noqa: PLC0415  # as above
    except ImportError as error:
        message = f"{bucket} is asked through obstore, which is not installed"
        hint = f"{sys.executable} -m pip install 'hermetic-engines[objects]'"
        raise HermeticError(Domain.ENVIRONMENT, "no-obstore", message, hint=hint) from error
    options: Any = _OPTIONS
    return from_url(bucket, client_options=options)
