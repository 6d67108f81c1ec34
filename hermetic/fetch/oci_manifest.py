"""Manifests, indexes and configurations of images: what is read of them, and the checks that tie them together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.recipe.image_reference import DIGEST

__all__ = [
    "ACCEPT",
    "Config",
    "Descriptor",
    "Manifest",
    "check",
    "mismatch",
    "parse_config",
    "parse_index",
    "parse_manifest",
]

_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFESTS: Final = (_OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES: Final = (_OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
#: The media types that a registry is asked for.
ACCEPT: Final = (*_MANIFESTS, *_INDEXES)

_LARGEST: Final = 4 << 20  # of a manifest; registries take no more


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob by its digest ("sha256:…") and size in bytes."""

    media_type: str
    digest: str
    size: int

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's image. `digest` is that of the bytes it was read from."""

    digest: str
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Config:
    """What is used of an image's configuration. `layers` are the digests of the uncompressed layers, bottom first."""

    platform: str
    variables: tuple[str, ...]
    layers: tuple[str, ...]


def check(content: bytes, digest: str, what: str) -> bytes:
    """`content`, if its digest is `digest`. Raises `HermeticError` (hash/image-mismatch)."""
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise mismatch(f"{what} should have the digest {digest} and has {found}")
    return content


def mismatch(message: str) -> HermeticError:
    hint = "what serves the image is broken or hostile; nothing was kept. Try again, or bring the image from elsewhere"
    return HermeticError(Domain.HASH, "image-mismatch", message, hint=hint)


def parse_manifest(content: bytes, media_type: str, what: str) -> Manifest | None:
    """None if it is an index. `media_type` counts only where the document does not say its own."""
    document = _object(content, what)
    kind = _kind(document, media_type)
    if kind in _INDEXES:
        return None
    if kind not in _MANIFESTS:
        message = f"{what} has the media type {kind!r}, which is no image that can be unpacked"
        raise HermeticError(Domain.ENVIRONMENT, "image-unsupported", message, hint="push it again as an OCI image")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise _malformed(what)
    config = _descriptor(document.get("config"), what)
    return Manifest(digest, kind, config, tuple(_descriptor(layer, what) for layer in layers))


def parse_index(content: bytes, what: str) -> dict[str, Descriptor]:
    """The manifest of each platform ("linux/amd64"; "linux/arm/v7"), the first where several claim one."""
    found: dict[str, Descriptor] = {}
    for item in _object(content, what).get("manifests", ()):
        platform = item.get("platform") if isinstance(item, dict) else None
        if isinstance(platform, dict):
            parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
            name = "/".join(str(part) for part in parts if part)
            found.setdefault("linux/arm64" if name == "linux/arm64/v8" else name, _descriptor(item, what))
    return found


def parse_config(content: bytes, what: str) -> Config:
    """Raises `HermeticError` (environment/image-unsupported) if it is no image's."""
    document = _object(content, what)
    root = document.get("rootfs")
    layers = root.get("diff_ids") if isinstance(root, dict) else None
    settings = document.get("config") or {}
    if not isinstance(layers, list) or not isinstance(settings, dict):
        raise _malformed(what)
    variables = tuple(text for text in settings.get("Env") or () if isinstance(text, str) and "=" in text)
    platform = f"{document.get('os')}/{document.get('architecture')}"
    return Config(platform, variables, tuple(str(layer) for layer in layers))


def _kind(document: Mapping[str, Any], media_type: str) -> str:
    said = document.get("mediaType")
    if isinstance(said, str):
        return said
    if media_type in ACCEPT:
        return media_type
    return _OCI_INDEX if "manifests" in document else _OCI_MANIFEST if "layers" in document else media_type


def _object(content: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(content) if len(content) <= _LARGEST else None
    except ValueError as error:
        raise _malformed(what) from error
    if not isinstance(document, dict):
        raise _malformed(what)
    return document


def _descriptor(item: object, what: str) -> Descriptor:
    if not isinstance(item, dict):
        raise _malformed(what)
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None or not isinstance(size, int) or size < 0:
        raise _malformed(what)
    return Descriptor(str(item.get("mediaType", "")), digest, size)


def _malformed(what: str) -> HermeticError:
    return HermeticError(Domain.ENVIRONMENT, "image-unsupported", f"{what} is no manifest or configuration of an image")
