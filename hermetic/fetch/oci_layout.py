"""OCI layouts, as folders and as archives: reading images from them, and laying out one for umoci."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from typing import IO, Final, Self

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.oci_manifest import Descriptor, check, mismatch
from hermetic.fetch.oci_zstd import PLAIN
from hermetic.recipe.image_reference import DIGEST, ImageReference

__all__ = ["IMAGE", "Layout", "lay_out"]

IMAGE: Final = "image"  # the one tag of a layout that `lay_out` makes
_CHUNK: Final = 1 << 20
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"

Tell = Callable[[int], None]


class Layout:
    """An OCI layout in a folder (``oci:``) or in a tar file (``oci-archive:``), as a place that images come from.

    Raises `HermeticError` (environment/image-not-found) wherever something is not in it. What it says of digests and
    sizes is verified as a registry's word is.
    """

    def __init__(self, reference: ImageReference) -> None:
        self.described = reference.pinned
        self._path = reference.place
        self._archive: tarfile.TarFile | None = None
        self._is_archive = reference.transport == "oci-archive"

    async def __aenter__(self) -> Self:
        if self._is_archive:
            try:
                self._archive = await asyncio.to_thread(tarfile.open, self._path, "r:*")
            except (OSError, tarfile.TarError) as error:
                raise self._missing("the archive", error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    async def manifest(self, which: str) -> tuple[bytes, str]:
        """The manifest or index that a digest names, or a tag; without either the only one there is."""
        digest, media_type = (which, "") if DIGEST.fullmatch(which) else self._find(which)
        with self._open(_blob(digest), f"the manifest {digest}") as stream:
            return check(stream.read(), digest, f"the manifest of {self.described}"), media_type

    async def read(self, descriptor: Descriptor) -> bytes:
        with self._open(_blob(descriptor.digest), descriptor.digest) as stream:
            return check(stream.read(descriptor.size + 1), descriptor.digest, f"a blob of {self.described}")

    async def blob(self, descriptor: Descriptor, path: str, tell: Tell) -> None:
        """Copy a blob to `path`. Raises `HermeticError` (hash/image-mismatch), and then nothing is left."""
        if self._archive is not None:  # one file position for all
            self._copy(descriptor, path, tell)
        else:
            await asyncio.to_thread(self._copy, descriptor, path, tell)

    def _copy(self, descriptor: Descriptor, path: str, tell: Tell) -> None:
        digest = hashlib.sha256()
        partial = f"{path}.partial"
        with (
            self._open(_blob(descriptor.digest), f"the layer {descriptor.digest}") as source,
            open(partial, "wb") as target,
        ):
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                digest.update(chunk)
                tell(len(chunk))
        if f"sha256:{digest.hexdigest()}" != descriptor.digest:
            os.unlink(partial)
            raise mismatch(f"the layer {descriptor.digest} of {self.described} is not what its digest says")
        os.rename(partial, path)

    def _find(self, tag: str) -> tuple[str, str]:
        with self._open("index.json", "index.json") as stream:
            try:
                listed = json.loads(stream.read())["manifests"]
                found = [item for item in listed if not tag or _tag(item) == tag]
                if len(found) == 1:
                    return str(found[0]["digest"]), str(found[0].get("mediaType", ""))
            except (ValueError, KeyError, TypeError) as error:
                raise self._missing("a sound index.json", error) from error
        known = ", ".join(sorted(filter(None, map(_tag, listed)))) or "none"
        what = f"the tag {tag!r}" if tag else "a single image"
        raise self._missing(what, None, hint=f"its tags: {known}; write {self.described}:TAG")

    def _open(self, name: str, what: str) -> IO[bytes]:
        try:
            if self._archive is None:
                return open(f"{self._path}/{name}", "rb")
            for member in (name, f"./{name}"):
                try:
                    found = self._archive.extractfile(member)
                except KeyError:
                    continue
                if found is not None:
                    return found
            raise FileNotFoundError(name)
        except OSError as error:
            raise self._missing(what, error) from error

    def _missing(self, what: str, error: Exception | None, hint: str | None = None) -> HermeticError:
        why = f" ({error})" if error is not None else ""
        return HermeticError(
            Domain.ENVIRONMENT, "image-not-found", f"{self.described} does not have {what}{why}", hint=hint
        )


def lay_out(folder: str, config: Descriptor, configuration: bytes, layers: Sequence[Descriptor]) -> None:
    """Write what makes the layers in `folder` an OCI layout with one image.

    Its manifest is our own: umoci reads OCI's media types only, and images made by docker have docker's. So it is
    never told by its digest; what was asked for has been verified before.
    """
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": _layer(item), "digest": item.digest, "size": item.size} for item in layers],
    }
    content = json.dumps(manifest, sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _write(f"{folder}/{_blob(digest)}", content)
    entry = {"mediaType": _MANIFEST, "digest": digest, "size": len(content)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": IMAGE}
    _write(f"{folder}/{_blob(config.digest)}", configuration)
    _write(f"{folder}/oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    _write(f"{folder}/index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}, sort_keys=True).encode())


def _layer(layer: Descriptor) -> str:
    """OCI's name for a docker or a foreign layer. Raises `HermeticError` for what umoci cannot unpack."""
    kind = layer.media_type
    if kind.endswith(("+gzip", ".gzip")):
        return f"{PLAIN}+gzip"
    if kind.endswith(".tar"):
        return PLAIN
    message = f"the layer {layer.digest} has the media type {kind!r}, which umoci cannot unpack"
    hint = "push the image again with gzip layers: skopeo copy --dest-compress-format gzip"
    raise HermeticError(Domain.ENVIRONMENT, "image-unsupported", message, hint=hint)


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _tag(item: object) -> str:
    annotations = item.get("annotations") if isinstance(item, dict) else None
    return str(annotations.get("org.opencontainers.image.ref.name", "")) if isinstance(annotations, dict) else ""
