"""A client for the pull half of the OCI distribution protocol: manifests and blobs, by digest, verified and resumed."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import httpx2 as httpx

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.oci_credentials import Credentials, find_credentials
from hermetic.fetch.oci_manifest import ACCEPT, Descriptor, check, mismatch
from hermetic.recipe.image_reference import ImageReference

__all__ = ["Registry"]

_ATTEMPTS: Final = 5  # without a byte in between
_PAUSE_S: Final = 0.2
_CHUNK: Final = 1 << 20
_TIMEOUT: Final = httpx.Timeout(60, connect=20)
_LARGEST_MANIFEST: Final = 4 << 20
_HOSTS: Final = {"docker.io": "registry-1.docker.io"}  # where the protocol is spoken, if not at the name itself
_CERTIFICATES: Final = ("/etc/docker/certs.d", "/etc/containers/certs.d")
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})

Tell = Callable[[int], None]


class Registry:
    """One repository of one registry. Use as an async context manager.

    Proxies (``HTTPS_PROXY``, ``NO_PROXY``) and certificates (``SSL_CERT_FILE``, ``SSL_CERT_DIR``, docker's and podman's
    ``certs.d/HOST``) are those of `environ`. On a loopback address, and only there, plain HTTP will do.
    """

    def __init__(self, reference: ImageReference, environ: Mapping[str, str] | None = None) -> None:
        self._environ = dict(os.environ if environ is None else environ)
        self._host = _HOSTS.get(reference.place, reference.place)
        self._login = reference.place
        self._name = reference.name
        self.described = reference.pinned
        self._local = _is_loopback(self._host)
        self._base = ""
        self._authorization = ""
        self._client = httpx.AsyncClient(
            timeout=_TIMEOUT, verify=_certificates(self._host, self._environ), trust_env=not self._local,
            follow_redirects=True, headers={"User-Agent": "hermetic"},
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def manifest(self, which: str) -> tuple[bytes, str]:
        """The bytes and media type of the manifest or index that a tag or digest names; a digest is verified.

        Raises `HermeticError`: hash/image-mismatch, environment/image-not-found, environment/registry-….
        """
        headers = {"Accept": ", ".join(ACCEPT)}
        async with self._request(f"manifests/{which}", headers) as response:
            content = b""
            async for chunk in response.aiter_bytes(_CHUNK):
                content += chunk
                if len(content) > _LARGEST_MANIFEST:
                    raise mismatch(f"the manifest {which} of {self.described} is larger than {_LARGEST_MANIFEST} bytes")
        if which.startswith("sha256:"):
            check(content, which, f"the manifest of {self.described}")
        return content, response.headers.get("Content-Type", "").partition(";")[0].strip()

    async def read(self, descriptor: Descriptor) -> bytes:
        """A small blob as bytes, verified."""
        content = b""
        async with self._request(f"blobs/{descriptor.digest}", {}) as response:
            async for chunk in response.aiter_bytes(_CHUNK):
                content += chunk
                if len(content) > descriptor.size:
                    break
        return check(content, descriptor.digest, f"a blob of {self.described}")

    async def blob(self, descriptor: Descriptor, path: str, tell: Tell) -> None:
        """Bring a blob to `path`, going on where ``path.partial`` ends. `tell` gets bytes as they are written, those
        that were there included; a negative number takes some back.

        Raises `HermeticError`: hash/image-mismatch (and nothing is left), environment/registry-….
        """
        partial = f"{path}.partial"
        with _opened(partial) as stream:
            digest = await asyncio.to_thread(_hash_present, stream, descriptor.size)
            tell(stream.tell())
            await self._fill(descriptor, stream, digest, tell)
        if f"sha256:{digest.hexdigest()}" != descriptor.digest:
            os.unlink(partial)
            what = (
                "is not what its digest says"
                if digest.length == descriptor.size
                else "has another size than its manifest says"
            )
            raise mismatch(f"the layer {descriptor.digest} of {self.described} {what}")
        os.rename(partial, path)

    async def _fill(self, wanted: Descriptor, stream: Any, digest: _Digest, tell: Tell) -> None:
        failures = 0
        while digest.length < wanted.size:
            before = digest.length
            try:
                if await self._receive(wanted, stream, digest, tell):
                    return
            except (httpx.TransportError, httpx.StreamError) as error:
                failures = 1 if digest.length > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise self._unreachable(error) from error
                await asyncio.sleep(_PAUSE_S * failures)

    async def _receive(self, wanted: Descriptor, stream: Any, digest: _Digest, tell: Tell) -> bool:
        """Append what the registry sends; True when it says that this was all. Never more than one byte too many."""
        headers = {"Accept-Encoding": "identity"}
        if digest.length:
            headers["Range"] = f"bytes={digest.length}-{wanted.size - 1}"
        async with self._request(f"blobs/{wanted.digest}", headers) as response:
            if digest.length and response.status_code != 206:
                tell(-digest.length)
                stream.seek(0)
                stream.truncate()
                digest.restart()
            async for chunk in response.aiter_raw():  # as it comes: what is gathered would be lost with the connection
                data = chunk[: wanted.size - digest.length + 1]
                stream.write(data)
                digest.update(data)
                tell(len(data))
                if digest.length > wanted.size:
                    return True
        return True

    @asynccontextmanager
    async def _request(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        await self._find_base()
        url = f"{self._base}/v2/{self._name}/{path}"
        for attempt in range(_ATTEMPTS):
            request = self._client.build_request("GET", url, headers={**headers, **self._credentials()})
            try:
                response = await self._client.send(request, stream=True)
            except httpx.ConnectError as error:
                raise self._unreachable(error) from error
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS - 1:
                    raise self._unreachable(error) from error
                continue
            try:
                if response.status_code == 401 and attempt < 2:
                    await self._authorise(response.headers.get("WWW-Authenticate", ""))
                    continue
                if response.status_code in _BUSY and attempt < _ATTEMPTS - 1:
                    await asyncio.sleep(_wait(response, attempt))
                    continue
                self._judge(response.status_code, path)
                yield response
                return
            finally:
                await response.aclose()

    def _credentials(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    async def _find_base(self) -> None:
        if self._base:
            return
        if self._local:
            try:
                await self._client.get(f"https://{self._host}/v2/")
            except httpx.TransportError:
                self._base = f"http://{self._host}"
                return
        self._base = f"https://{self._host}"

    async def _authorise(self, challenge: str) -> None:
        """Answer a 401: with the login itself (Basic), or with a token that its token server gives (Bearer)."""
        kind, _, rest = challenge.partition(" ")
        known = await asyncio.to_thread(find_credentials, self._login, self._environ)
        if kind.lower() == "bearer":
            self._authorization = f"Bearer {await self._token(_parameters(rest), known)}"
        elif kind.lower() == "basic" and known is not None and not known.is_token:
            self._authorization = known.basic
        else:
            raise self._denied("asks for a login")

    async def _token(self, asked: Mapping[str, str], known: Credentials | None) -> str:
        realm = asked.get("realm", "")
        if not realm.startswith("https://") and not (self._local and realm.startswith("http://")):
            raise self._denied("names a token server that is not reached over https")
        query = {"service": asked.get("service", ""), "scope": asked.get("scope") or f"repository:{self._name}:pull"}
        try:
            if known is not None and known.is_token:
                form = {**query, "grant_type": "refresh_token", "refresh_token": known.secret, "client_id": "hermetic"}
                answer = await self._client.post(realm, data=form)
            else:
                headers = {} if known is None else {"Authorization": known.basic}
                answer = await self._client.get(realm, params=query, headers=headers)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        try:
            said = answer.json() if answer.status_code == 200 else {}
        except ValueError:
            said = {}
        token = said.get("token") or said.get("access_token") if isinstance(said, dict) else None
        if not isinstance(token, str):
            raise self._denied(f"its token server refuses (status {answer.status_code})")
        return token

    def _judge(self, status: int, path: str) -> None:
        if status in {200, 206}:
            return
        if status in {401, 403}:
            raise self._denied(f"refuses (status {status})")
        what = path.partition("/")[2]
        if status == 404:
            hint = "check name and tag; a registry also says so of what you may not see"
            raise HermeticError(
                Domain.ENVIRONMENT,
                "image-not-found",
                f"the registry of {self.described} does not have {what}",
                hint=hint,
            )
        message = f"the registry of {self.described} answered {status} when asked for {what}"
        raise HermeticError(Domain.ENVIRONMENT, "registry-failed", message, hint="try again later")

    def _denied(self, what: str) -> HermeticError:
        hint = f"docker login {self._login}  # or podman login; hermetic reads what they leave"
        return HermeticError(
            Domain.ENVIRONMENT, "registry-denied", f"the registry of {self.described} {what}", hint=hint
        )

    def _unreachable(self, error: Exception) -> HermeticError:
        # Only the kind of the error: its text may hold the signed address of a redirect.
        why = "its certificate is not trusted" if "CERTIFICATE_VERIFY" in str(error) else type(error).__name__
        hint = "check the network, HTTPS_PROXY and NO_PROXY; a private CA belongs in SSL_CERT_FILE or certs.d"
        message = f"the registry of {self.described} cannot be reached ({why})"
        return HermeticError(Domain.ENVIRONMENT, "registry-unreachable", message, hint=hint)


class _Digest:
    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._sha256 = hashlib.sha256()
        self.length = 0

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        self.length += len(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _opened(path: str) -> Any:
    """For reading what is there and writing more."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)


def _hash_present(stream: Any, size: int) -> _Digest:
    digest = _Digest()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    if digest.length > size:
        stream.seek(0)
        stream.truncate()
        digest.restart()
    return digest


def _wait(response: httpx.Response, attempt: int) -> float:
    said = response.headers.get("Retry-After", "")
    return min(float(said), 60.0) if said.isdigit() else _PAUSE_S * 2**attempt


def _parameters(text: str) -> dict[str, str]:
    return dict(re.findall(r'([a-z]+)="([^"]*)"', text))


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _certificates(host: str, environ: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if file := environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(cafile=file)
    home = environ.get("HOME", "")
    own = (f"{home}/.config/containers/certs.d", f"{home}/.config/docker/certs.d") if home else ()
    for folder in (f"{place}/{host}" for place in (*_CERTIFICATES, *own)):
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        for name in names:
            if name.endswith(".crt"):
                context.load_verify_locations(cafile=f"{folder}/{name}")
            elif name.endswith(".cert"):
                context.load_cert_chain(f"{folder}/{name}", f"{folder}/{name[:-5]}.key")
    return context
