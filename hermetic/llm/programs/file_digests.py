"""Size, SHA-256 and BLAKE3 of files, in one reading of each."""

from __future__ import annotations

import hashlib
from pathlib import Path

from blake3 import blake3

_CHUNK = 1 << 20


def digests_below(folder: Path) -> dict[str, dict[str, object]]:
    """Of every file below `folder`, by its path there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digests(path) for path in found}


def digests(path: Path) -> dict[str, object]:
    """``blake3`` and ``sha256`` in hexadecimal, ``size`` in bytes."""
    sha256, fast, size = hashlib.sha256(), blake3(), 0
    with path.open("rb") as stream:
        while data := stream.read(_CHUNK):
            sha256.update(data)
            fast.update(data)
            size += len(data)
    return {"blake3": fast.hexdigest(), "sha256": sha256.hexdigest(), "size": size}
