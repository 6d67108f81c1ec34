"""How many bytes outputs take on the disk, alone and with others: counted by blob, through the manifests."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hermetic.digest import Key, TreeDigest
from hermetic.store.layout import Layout
from hermetic.store.realisation import Realisation

__all__ = ["Contents", "Ledger", "Usage"]


class Contents:
    """The distinct files of trees: bytes by the name of the blob. Reads each manifest once, and none for `known`."""

    def __init__(self, layout: Layout, known: Mapping[TreeDigest, Mapping[str, int]] = MappingProxyType({})) -> None:
        self._layout = layout
        self._known = dict(known)

    def of(self, tree: TreeDigest) -> Mapping[str, int]:
        """Empty for a manifest that is missing or damaged: what it named cannot be counted (`verify` names it)."""
        if tree not in self._known:
            self._known[tree] = _files(self._layout.tree(tree))
        return self._known[tree]


def _files(path: str) -> Mapping[str, int]:
    # Not `manifest.read`, which computes the digest again: ten times the cost, for every path of the store.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        rows = json.loads(data)["entries"]
        return {row["digest"] + (".x" if row.get("executable") else ""): row["size"] for row in rows if "digest" in row}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


@dataclass(frozen=True, slots=True)
class Usage:
    """One output's bytes on the disk, equal files counted once; `own` are those that no other output has."""

    record: Realisation
    size: int
    own: int

    @property
    def shared(self) -> int:
        """Bytes that would stay if it went."""
        return self.size - self.own


class Ledger:
    """Who has what, over all the outputs of a store."""

    def __init__(self, layout: Layout, records: Iterable[Realisation]) -> None:
        self._contents = Contents(layout)
        self._users: dict[str, list[Realisation]] = {}
        sizes: dict[str, int] = {}
        for record in records:
            for blob, size in self._contents.of(record.tree).items():
                self._users.setdefault(blob, []).append(record)
                sizes[blob] = size
        self.total = sum(sizes.values())

    def usage(self, record: Realisation) -> Usage:
        """What one of the outputs takes."""
        files = self._contents.of(record.tree)
        own = sum(size for blob, size in files.items() if len(self._users[blob]) == 1)
        return Usage(record, sum(files.values()), own)

    def sharers(self, record: Realisation) -> dict[Key, int]:
        """The outputs that have files of this one too, and how many bytes of it, the largest share first."""
        found: Counter[Key] = Counter()
        for blob, size in self._contents.of(record.tree).items():
            for other in self._users[blob]:
                if other.key != record.key:
                    found[other.key] += size
        return dict(found.most_common())
