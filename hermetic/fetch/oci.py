"""Images: what a reference stands for (for the lock file), and bringing one by its digest, every byte verified."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.oci_layout import Layout, lay_out
from hermetic.fetch.oci_manifest import (
    Config,
    Descriptor,
    Manifest,
    mismatch,
    parse_config,
    parse_index,
    parse_manifest,
)
from hermetic.fetch.oci_registry import Registry
from hermetic.fetch.oci_storage import Storage
from hermetic.fetch.oci_zstd import decompress, is_zstd
from hermetic.recipe.image_reference import ImageReference, parse_reference
from hermetic.recipe.lockfile import ImageEntry, LockedImage

__all__ = ["Progress", "Pulled", "pull", "resolve"]

_PLATFORMS: Final = ("linux/amd64", "linux/arm64")  # what stages run on
_AT_ONCE: Final = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image in a layout: its manifest's digest, its configuration, and that as bytes."""

    digest: str
    config: Config
    content: bytes


async def resolve(location: str, *, source: str = "") -> ImageEntry:
    """Ask what `location` stands for now; the entry of a lock file. `source` is what that says of where it came from.

    Raises `HermeticError` (domains environment and hash), and recipe/image-reference for what names no image.
    """
    reference = _parsed(location)
    async with _opened(reference) as place:
        content, media_type = await place.manifest(reference.selector)
        what = f"the manifest of {place.described}"
        manifest = parse_manifest(content, media_type, what)
        if manifest is not None:
            return ImageEntry(platforms=dict([await _locked(place, manifest)]), source=source or place.described)
        found: dict[str, LockedImage] = {}
        for platform, descriptor in parse_index(content, what).items():
            if platform in _PLATFORMS:
                found |= dict([await _locked(place, await _one(place, descriptor.digest), platform)])
        if not found:
            message = f"{place.described} is there for none of {', '.join(_PLATFORMS)}"
            raise HermeticError(Domain.ENVIRONMENT, "image-platform", message)
        return ImageEntry(platforms=found, index=_digest_of(content), source=source or place.described)


async def pull(location: str, digest: str, config: str, folder: str, progress: Progress) -> Pulled:
    """Bring the image with the manifest `digest` from `location` into an OCI layout in `folder`, with one tag.

    `config` is the digest of its configuration if that is known, else "". What an earlier, interrupted call left in
    `folder` is used. `progress` is told bytes that have arrived and bytes in all.

    Raises `HermeticError`: hash/image-mismatch, recipe/image-is-index, and domain environment.
    """
    os.makedirs(f"{folder}/blobs/sha256", exist_ok=True)
    async with _opened(_parsed(location)) as source:
        manifest = await _wanted(source, digest, config)
        content = await source.read(manifest.config)
        parsed = parse_config(content, f"the configuration of {source.described}")
        if isinstance(source, Storage):
            layers = await _taken(source, parsed, folder)
        else:
            layers = list(manifest.layers)
            await _together(_bring(source, layers, folder, progress))
            layers = await asyncio.to_thread(_plain, layers, parsed, folder)
    lay_out(folder, manifest.config, content, layers)
    return Pulled(digest, parsed, content)


_Source = Registry | Layout | Storage


@asynccontextmanager
async def _opened(reference: ImageReference) -> AsyncIterator[_Source]:
    source: _Source
    if reference.transport == "registry":
        source = Registry(reference)
    elif reference.transport in {"oci", "oci-archive"}:
        source = Layout(reference)
    else:
        source = Storage(reference)
    async with source:
        yield source


def _parsed(location: str) -> ImageReference:
    try:
        return parse_reference(location)
    except ValueError as error:
        raise HermeticError(Domain.RECIPE, "image-reference", f"{location!r} names no image: {error}") from error


async def _one(source: _Source, digest: str) -> Manifest:
    content, media_type = await source.manifest(digest)
    manifest = parse_manifest(content, media_type, f"the manifest {digest} of {source.described}")
    if manifest is None:
        message = f"{digest} of {source.described} is an index of several platforms' images, not one image"
        hint = "lock it (hermetic lock RECIPE), or write the digest of one platform's manifest"
        raise HermeticError(Domain.RECIPE, "image-is-index", message, hint=hint)
    return manifest


async def _locked(source: _Source, manifest: Manifest, platform: str = "") -> tuple[str, LockedImage]:
    config = parse_config(await source.read(manifest.config), f"the configuration of {source.described}")
    locked = LockedImage(
        digest=manifest.digest,
        media_type=manifest.media_type,
        size=manifest.size,
        config=manifest.config.digest,
        variables=config.variables,
    )
    return platform or config.platform, locked


async def _wanted(source: _Source, digest: str, config: str) -> Manifest:
    """The manifest. Docker's storage has none that was pulled, but may have the configuration that it named."""
    try:
        return await _one(source, digest)
    except HermeticError as error:
        if not (isinstance(source, Storage) and config and error.reason == "image-mismatch"):
            raise
    content, media_type = await source.manifest("")
    manifest = parse_manifest(content, media_type, f"the manifest of {source.described}")
    if manifest is None or manifest.config.digest != config:
        raise mismatch(f"{source.described} is another image than {digest}")
    return manifest


async def _taken(source: Storage, config: Config, folder: str) -> list[Descriptor]:
    layers = await source.layers(folder)
    if tuple(layer.digest for layer in layers) != config.layers:
        raise mismatch(f"the layers of {source.described} are not those that its configuration names")
    return layers  # umoci compares every layer's bytes with the configuration's digests as it unpacks


def _plain(layers: list[Descriptor], config: Config, folder: str) -> list[Descriptor]:
    """Layers as umoci reads them: those that zstd compressed, uncompressed."""
    if not any(map(is_zstd, layers)):
        return layers
    if len(layers) != len(config.layers):
        raise mismatch(f"the manifest has {len(layers)} layers and the configuration {len(config.layers)}")
    blobs, done = f"{folder}/blobs/sha256", dict[str, Descriptor]()
    for layer, plain in zip(layers, config.layers, strict=True):
        if layer.digest not in done:
            done[layer.digest] = decompress(layer, plain, blobs) if is_zstd(layer) else layer
    return [done[layer.digest] for layer in layers]


def _digest_of(content: bytes) -> str:
    import hashlib  # noqa: PLC0415  # one line of one rare path

    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _bring(
    source: Registry | Layout, layers: list[Descriptor], folder: str, progress: Progress
) -> list[Coroutine[Any, Any, None]]:
    distinct = {layer.digest: layer for layer in layers}.values()
    total, done = sum(layer.size for layer in distinct), 0
    turn = asyncio.Semaphore(_AT_ONCE)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    async def one(layer: Descriptor) -> None:
        path = f"{folder}/blobs/sha256/{layer.hex}"
        async with turn:
            _reopen(path)
            await source.blob(layer, path, tell)

    return [one(layer) for layer in distinct]


def _reopen(path: str) -> None:
    """What an interrupted pull left as whole is verified again, from its first byte."""
    if os.path.exists(path):
        os.rename(path, f"{path}.partial")


async def _together(work: list[Coroutine[Any, Any, None]]) -> None:
    """All at once; the first failure stops the others and is raised as itself."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
