"""Layers compressed with zstd, which umoci before 0.5 does not read: written out uncompressed, verified as such."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.oci_manifest import Descriptor, mismatch

__all__ = ["PLAIN", "decompress", "is_zstd"]

PLAIN: Final = "application/vnd.oci.image.layer.v1.tar"
_CHUNK: Final = 1 << 20


def is_zstd(layer: Descriptor) -> bool:
    return layer.media_type.endswith(("+zstd", ".zstd"))


def decompress(layer: Descriptor, plain: str, blobs: str) -> Descriptor:
    """Write the verified blob of `layer` in the folder `blobs` uncompressed beside it; what it is called there.

    `plain` is the digest that the image's configuration gives the uncompressed layer; nothing else is kept. The
    compressed blob stays: an unpacking that is interrupted goes on from it.

    Raises `HermeticError`: hash/image-mismatch, environment/no-zstd.
    """
    zstd = _library()
    digest, size = hashlib.sha256(), 0
    target = f"{blobs}/{plain.removeprefix('sha256:')}"
    try:
        with zstd.open(f"{blobs}/{layer.hex}") as source, open(f"{target}.partial", "wb") as out:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += out.write(chunk)
        found = f"sha256:{digest.hexdigest()}"
        if found != plain:
            raise mismatch(f"the layer {layer.digest} should be {plain} when uncompressed, and is {found}")
    except (zstd.ZstdError, EOFError) as error:
        raise mismatch(f"the layer {layer.digest} is not what zstd compressed: {error}") from error
    finally:
        if f"sha256:{digest.hexdigest()}" != plain and os.path.exists(f"{target}.partial"):
            os.unlink(f"{target}.partial")
    os.rename(f"{target}.partial", target)
    return Descriptor(PLAIN, plain, size)


def _library() -> Any:
    """Python's own from 3.14 on, else the same module of `backports.zstd`."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  # one kind of image
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef,unused-ignore]  # noqa: PLC0415
        except ImportError as error:
            message = "a layer of the image is compressed with zstd, which this Python cannot read"
            hint = "pip install 'hermetic-engines[images]', or skopeo copy --dest-compress-format gzip"
            raise HermeticError(Domain.ENVIRONMENT, "no-zstd", message, hint=hint) from error
    return zstd
