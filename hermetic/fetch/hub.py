"""Hugging Face Hubs: what a revision stands for, and its files by commit. Spoken by the Hub's own client.

The client's sessions, headers, tokens, listings and errors are used; the bytes are received here, because the client
throws away what it has of a file when it is interrupted, and hashes nothing (docs/adr/0021).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx2 as httpx

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.bring import LONGEST_PAUSE_S, hashed
from hermetic.fetch.origin import BrokenError, HttpOrigin, unreachable, wait_of
from hermetic.fetch.secrets import find_secret
from hermetic.recipe.lockfile import FixedEntry, LockedFile, is_safe_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["Hub", "Repository", "parse"]

_URI: Final = re.compile(r"hf://(datasets/)?([^@]+)@(.+)")
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Repository:
    """What an ``hf://`` address names; `kind` is "model" or "dataset"."""

    kind: str
    name: str
    revision: str

    @property
    def path(self) -> str:
        """Below an endpoint, for who reads and for who downloads."""
        return f"datasets/{self.name}" if self.kind == "dataset" else self.name


def parse(uri: str) -> Repository:
    """Of ``hf://owner/name@revision`` or ``hf://datasets/owner/name@revision``."""
    match = _URI.fullmatch(uri)
    assert match is not None, uri
    return Repository("dataset" if match[1] else "model", match[2], match[3])


class Hub(HttpOrigin):
    """One repository at one commit, or, before that is known, at its revision.

    The Hub is ``HF_ENDPOINT``'s; the token is the one that `secret` names (see `find_secret`), else that of
    ``HF_TOKEN`` or of ``hf auth login``. Raises `HermeticError`: environment/hub-….
    """

    def __init__(self, repository: Repository, *, commit: str = "", secret: str = "") -> None:
        from huggingface_hub import constants  # noqa: PLC0415  # half a second

        # Its warnings about tries again would stand in the middle of ours.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        shown = urlsplit(self.endpoint)
        host = shown.netloc.rpartition("@")[2]  # a mirror's address may hold a login, and this goes into lock files
        super().__init__(f"{shown.scheme}://{host}{shown.path}/{repository.path}")
        self.repository = repository
        self.commit = commit
        self._secret = secret
        self.cache: str = constants.HF_HUB_CACHE

    @cached_property
    def _token(self) -> str | None:
        from huggingface_hub import get_token  # noqa: PLC0415  # as above

        return find_secret(self._secret) or get_token()

    @cached_property
    def _headers(self) -> dict[str, str]:
        """Made when the first file is asked for: to describe itself the client may ask the Hub something."""
        from huggingface_hub.utils._headers import build_hf_headers  # noqa: PLC0415  # as above

        return build_hf_headers(token=self._token or False, library_name="hermetic")

    def make_client(self) -> httpx.Client:
        from huggingface_hub.utils._http import default_client_factory  # noqa: PLC0415  # as above

        return default_client_factory()

    def request(self, path: str) -> tuple[str, Mapping[str, str]]:
        from huggingface_hub import hf_hub_url  # noqa: PLC0415  # as above

        kind, revision = self.repository.kind, self.commit or self.repository.revision
        url = hf_hub_url(self.repository.name, path, repo_type=kind, revision=revision, endpoint=self.endpoint)
        return url, self._headers

    def judge(self, response: httpx.Response, path: str) -> None:
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415  # as above
        from huggingface_hub.utils._http import hf_raise_for_status  # noqa: PLC0415  # as above

        response.read()
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            raise self._explain(error, path) from None  # its text may hold a signed address

    def nearby(self, file: LockedFile) -> Iterator[str]:
        """Where the user's own Hugging Face cache would have it."""
        folder = "--".join([f"{self.repository.kind}s", *self.repository.name.split("/")])
        for etag in (file.sha256, file.git):
            if etag:
                yield f"{self.cache}/{folder}/blobs/{etag}"

    def resolve(self, chosen: Callable[[FixedEntry], set[str]], known: FixedEntry | None) -> FixedEntry:
        """What the revision stands for now, with the sha256 of all large files and of the small ones that `chosen`
        picks. With `known` its commit is kept, and so is all that it knows.

        Raises `HermeticError`: environment/hub-…, hash/hub-mismatch for a file that is not what its git-sha1 says.
        """
        info, files = self._listing(known.commit if known is not None else "")
        card = info.card_data or {}
        licence = card.get("license") or ""
        entry = FixedEntry(
            commit=self.commit,
            files=files if known is None else files | {n: f for n, f in known.files.items() if n in files},
            licence=licence if isinstance(licence, str) else ", ".join(licence),
            gated=bool(info.gated),
            source=self.described,
        )
        missing = {name: entry.files[name] for name in sorted(chosen(entry)) if not entry.files[name].sha256}
        return entry.model_copy(update={"files": entry.files | {n: self._hashed(n, f) for n, f in missing.items()}})

    def _listing(self, commit: str) -> tuple[Any, dict[str, LockedFile]]:
        from huggingface_hub import HfApi  # noqa: PLC0415  # as above

        api = HfApi(endpoint=self.endpoint, token=self._token or False, library_name="hermetic")
        return self._asking(lambda: self._list(api, commit or self.repository.revision))

    def _list(self, api: HfApi, revision: str) -> tuple[Any, dict[str, LockedFile]]:
        from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415  # as above

        info = api.repo_info(self.repository.name, repo_type=self.repository.kind, revision=revision, timeout=60)
        self.commit = info.sha or ""
        tree = api.list_repo_tree(
            self.repository.name, repo_type=self.repository.kind, revision=self.commit, recursive=True
        )
        files = {}
        for item in tree:
            if isinstance(item, RepoFile):
                self._check_path(item.path)
                large = item.lfs is not None
                files[item.path] = LockedFile(
                    size=item.lfs.size if item.lfs is not None else item.size,
                    sha256=item.lfs.sha256 if item.lfs is not None else "",
                    git="" if large else item.blob_id,
                    origin="hub" if large else "",
                )
        return info, files

    def _check_path(self, path: str) -> None:
        if not is_safe_path(path):
            message = f"{self.described} lists a file that leads out of its folder: {path!r}"
            raise HermeticError(Domain.TRUST, "unsafe-path", message)

    def _asking(self, ask: Callable[[], tuple[Any, dict[str, LockedFile]]]) -> tuple[Any, dict[str, LockedFile]]:
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled  # noqa: PLC0415  # as above

        for attempt in range(_ATTEMPTS):
            try:
                with self.speaking():
                    return ask()
            except HfHubHTTPError as error:
                if error.response.status_code not in {429, 500, 502, 503, 504} or attempt == _ATTEMPTS - 1:
                    raise self._explain(error, "") from None
                self._pause(wait_of(error.response.headers), attempt)
            except OfflineModeIsEnabled as error:
                message = f"{self.described} may not be asked: HF_HUB_OFFLINE is set"
                raise HermeticError(Domain.ENVIRONMENT, "hub-offline", message, hint="unset it") from error
            except BrokenError as error:
                if attempt == _ATTEMPTS - 1:
                    raise unreachable(self.described, str(error)) from error
                self._pause(None, attempt)
        raise AssertionError

    @staticmethod
    def _pause(wait: float | None, attempt: int) -> None:
        time.sleep(min(wait, LONGEST_PAUSE_S) if wait is not None else 0.2 * 2**attempt)

    def _hashed(self, path: str, file: LockedFile) -> LockedFile:
        """A small file, fetched once to be hashed, and compared with what git calls it."""
        for attempt in range(_ATTEMPTS):
            sha256 = hashlib.sha256()
            git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            try:
                with self.stream(path, 0) as (_, pieces):
                    size = hashed(pieces, sha256, git)
                if size >= file.size:
                    break
            except BrokenError as error:
                if attempt == _ATTEMPTS - 1:
                    raise unreachable(self.described, str(error)) from error
                self._pause(error.wait, attempt)
        if file.git and (size, git.hexdigest()) != (file.size, file.git):
            message = f"{path} of {self.described} is not what its git-sha1 says: {file.git}"
            hint = "it was changed on the way; ask again, perhaps without a mirror"
            raise HermeticError(Domain.HASH, "hub-mismatch", message, hint=hint)
        return file.model_copy(update={"sha256": sha256.hexdigest(), "origin": "fetched"})

    def _explain(self, error: HfHubHTTPError, path: str) -> HermeticError:
        from huggingface_hub import errors  # noqa: PLC0415  # as above

        what = f"{path} of {self.described}" if path else self.described
        status = error.response.status_code
        if isinstance(error, errors.GatedRepoError):
            return self._denied(f"{self.described} is gated, and ", status)
        if isinstance(error, errors.RevisionNotFoundError):
            message = f"{self.described} has no revision {self.commit or self.repository.revision!r}"
            return HermeticError(Domain.ENVIRONMENT, "hub-no-revision", message, hint="look at its branches and tags")
        if isinstance(error, errors.EntryNotFoundError):
            message = f"{what} is not there any more"
            return HermeticError(Domain.ENVIRONMENT, "hub-no-file", message, hint="lock again: hermetic lock --update")
        if isinstance(error, errors.RepositoryNotFoundError):
            message = f"{self.described} does not exist, or is private and "
            return self._denied(message, status, "hub-no-repository")
        if status in {401, 403}:
            return self._denied(f"{what}: ", status)
        message = f"{what} could not be had: the Hub answered {status}"
        return HermeticError(Domain.ENVIRONMENT, "hub-failed", message, hint="try again later")

    def _denied(self, what: str, status: int, reason: str = "hub-denied") -> HermeticError:
        if self._token:
            message, hint = f"{what}the token may not read it (status {status})", f"ask for access at {self.described}"
        else:
            message = f"{what}there is no token (status {status})"
            secret = f", or the secret {self._secret} (TRUSS_SECRET_{self._secret}, /secrets/{self._secret})"
            hint = f"hf auth login, or HF_TOKEN{secret if self._secret else ''}; access is given at {self.described}"
        return HermeticError(Domain.ENVIRONMENT, reason, message, hint=hint)
