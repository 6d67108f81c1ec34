"""The record that a store path is complete. It is written last; a path without one does not exist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hermetic.digest import Key, ResolvedKey, TreeDigest

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store.store import Store

__all__ = ["Realisation", "decode", "encode"]


@dataclass(frozen=True, slots=True)
class Realisation:
    """What one key became.

    `size` is the bytes of all files together. `references` are the keys of store paths that the output points to,
    `platform` what was recorded of the machine, `run` the driver process that made it, `build` the attempt (empty
    for an adopted one), `impure` whether anything undeclared may have been seen (P9).
    """

    key: Key
    name: str
    tree: TreeDigest
    size: int
    references: tuple[Key, ...] = ()
    platform: Mapping[str, Value] = field(default_factory=dict)
    resolved: ResolvedKey | None = None
    run: str = ""
    impure: bool = False
    build: str = ""

    def path(self, store: Store) -> Path:
        """Where it lies in `store`."""
        return store.path(self.key, self.name)


def encode(record: Realisation) -> bytes:
    """The canonical bytes of a record."""
    from hermetic import canonical  # noqa: PLC0415  # reading records does not need the encoder

    document: dict[str, Value] = {
        "version": 1,
        "key": record.key.hex,
        "name": record.name,
        "tree": record.tree.hex,
        "size": record.size,
        "references": [key.hex for key in record.references],
        "platform": dict(record.platform),
        "run": record.run,
        "impure": record.impure,
        "build": record.build,
    }
    if record.resolved is not None:
        document["resolved"] = record.resolved.hex
    return canonical.encode(document)


def decode(data: bytes) -> Realisation:
    """The inverse of `encode`. Raises `ValueError`, `KeyError` or `TypeError` on anything else."""
    document = json.loads(data)
    if document["version"] != 1:
        raise ValueError(f"version {document['version']!r}")
    resolved = document.get("resolved")
    return Realisation(
        key=Key(document["key"]),
        name=str(document["name"]),
        tree=TreeDigest(document["tree"]),
        size=int(document["size"]),
        references=tuple(Key(key) for key in document["references"]),
        platform=dict(document["platform"]),
        resolved=ResolvedKey(resolved) if resolved is not None else None,
        run=str(document["run"]),
        impure=document["impure"] is not False,  # what cannot be read as pure is not
        build=str(document["build"]),
    )
