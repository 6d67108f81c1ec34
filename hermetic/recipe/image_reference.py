"""How an image is named: in a registry, in an OCI layout or archive, or in the storage of podman or docker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["DIGEST", "TRANSPORTS", "ImageReference", "parse_reference"]

#: What a name may begin with; without one of these it is a registry's. The words are skopeo's.
TRANSPORTS: Final = ("oci", "oci-archive", "containers-storage", "docker-daemon")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

_HOST: Final = re.compile(
    r"(localhost|[A-Za-z0-9.-]+\.[A-Za-z0-9-]+|[A-Za-z0-9.-]+:[0-9]+|localhost:[0-9]+|\[[0-9a-f:]+\](:[0-9]+)?)"
)
_NAME: Final = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """`transport` is "registry" or one of `TRANSPORTS`; `place` a registry's host, else a path or a local name.

    `name` is the repository, for a registry only. `tag` and `digest` are "" where there is none.
    """

    transport: str
    place: str
    name: str
    tag: str
    digest: str

    @property
    def selector(self) -> str:
        """What is asked for: the digest wherever there is one."""
        return self.digest or self.tag

    @property
    def pinned(self) -> str:
        """The name without its tag, for error messages and for engines that pull by digest."""
        return f"{self.place}/{self.name}" if self.transport == "registry" else f"{self.transport}:{self.place}"


def parse_reference(text: str) -> ImageReference:
    """Raises `ValueError` with what is wrong, and how it is written."""
    bare, mark, digest = text.partition("@")
    if mark and DIGEST.fullmatch(digest) is None:
        raise ValueError(f"{digest!r} is no manifest digest: sha256: and 64 hexadecimal digits")
    transport, colon, rest = bare.partition(":")
    if colon and transport in TRANSPORTS:
        return _local(transport, rest, digest)
    return _registry(bare, digest)


def _registry(text: str, digest: str) -> ImageReference:
    host, slash, rest = text.partition("/")
    if not slash or _HOST.fullmatch(host) is None:
        raise ValueError("an image is named in full, beginning with its registry's host: registry.example.com/name:tag")
    name, colon, tag = rest.partition(":")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no repository: lower-case letters and digits between . _ - and /")
    if colon and _TAG.fullmatch(tag) is None:
        raise ValueError(f"{tag!r} is no tag")
    return ImageReference("registry", host, name, tag or ("" if digest else "latest"), digest)


def _local(transport: str, rest: str, digest: str) -> ImageReference:
    if not rest:
        raise ValueError(f"{transport}: is followed by {'a path' if transport.startswith('oci') else 'a name'}")
    if not transport.startswith("oci"):
        return ImageReference(transport, rest, "", "", digest)
    path, _, tag = rest.rpartition(":")
    if not path or _TAG.fullmatch(tag) is None:
        path, tag = rest, ""
    return ImageReference(transport, path, "", tag, digest)
