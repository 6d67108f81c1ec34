"""The record of a tree: one flat, canonical list of everything in it, from which its digest can be computed again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from hermetic.digest import BlobDigest, TreeDigest, TreeEntry, tree_digest
from hermetic.errors import Domain, HermeticError
from hermetic.store.layout import Layout, write_atomic
from hermetic.store.walk import FolderNode, Survey

__all__ = ["Entry", "Manifest", "decode", "digest_folders", "encode", "read", "write"]

_TYPES = frozenset({"file", "dir", "symlink"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symlink. `path` is relative to the tree, with slashes; `size` is in bytes."""

    path: str
    type: Literal["file", "dir", "symlink"]
    executable: bool = False
    size: int = 0
    digest: BlobDigest | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of a tree, parents before children."""

    tree: TreeDigest
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)


def digest_folders(survey: Survey) -> TreeDigest:
    """Fill in the digest of every folder of a survey whose files are hashed, and give the top's."""
    for folder in reversed(survey.folders):
        folder.digest = tree_digest(_entries(folder))
    assert survey.top.digest is not None
    return survey.top.digest


def _entries(folder: FolderNode) -> list[TreeEntry]:
    return [
        *(TreeEntry(f.name, "file", f.executable, f.size, f.digest) for f in folder.files),
        *(TreeEntry(s.parts[-1], "dir", digest=s.digest) for s in folder.folders),
        *(TreeEntry(s.name, "symlink", target=s.target) for s in folder.links),
    ]


def encode(survey: Survey) -> bytes:
    """The canonical bytes of a surveyed and hashed tree's manifest."""
    rows: list[dict[str, object]] = []
    for folder in survey.folders:
        if folder.parts:
            rows.append({"path": b"/".join(folder.parts).decode(), "type": "dir"})
        for file in folder.files:
            assert file.digest is not None
            row: dict[str, object] = {
                "digest": file.digest.hex,
                "path": folder.inside(file.name).decode(),
                "size": file.size,
                "type": "file",
            }
            if file.executable:
                row["executable"] = True
            rows.append(row)
        rows.extend(
            {"path": folder.inside(link.name).decode(), "target": link.target.decode(), "type": "symlink"}
            for link in folder.links
        )
    # Equal to hermetic.canonical.encode for these values (a test holds that), and thirty times as fast.
    document = {"entries": rows, "version": 1}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write(layout: Layout, digest: TreeDigest, data: bytes) -> None:
    """Record a manifest, unless the very same is there already."""
    path = layout.tree(digest)
    try:
        with open(path, "rb") as file:
            if file.read() == data:
                return
    except FileNotFoundError:
        pass
    write_atomic(layout, path, data)


def read(layout: Layout, digest: TreeDigest) -> Manifest:
    """The manifest of a tree, checked against its digest.

    Raises `HermeticError`: store/unknown-tree when there is none, store/corrupt when it is not what it says.
    """
    try:
        with open(layout.tree(digest), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise HermeticError(Domain.STORE, "unknown-tree", f"no record of tree {digest} in {layout.root}") from None
    try:
        manifest = decode(data)
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(layout, digest, str(error)) from error
    if manifest.tree != digest:
        raise _corrupt(layout, digest, f"it describes {manifest.tree}")
    return manifest


def _corrupt(layout: Layout, digest: TreeDigest, problem: str) -> HermeticError:
    return HermeticError(
        Domain.STORE,
        "corrupt",
        f"the record {layout.tree(digest)} is damaged: {problem}",
        hint="run `hermetic verify` to see what else is",
    )


def decode(data: bytes) -> Manifest:
    """The inverse of `encode`. Raises `ValueError`, `KeyError` or `TypeError` on anything else."""
    document = json.loads(data)
    if document["version"] != 1:
        raise ValueError(f"version {document['version']!r}")
    entries = tuple(_entry(row) for row in document["entries"])
    return Manifest(_tree_of(entries), entries)


def _entry(row: dict[str, object]) -> Entry:
    path, kind, size = row["path"], row["type"], row.get("size", 0)
    target, digest = row.get("target", ""), row.get("digest")
    if not (isinstance(path, str) and isinstance(size, int) and isinstance(target, str) and kind in _TYPES):
        raise TypeError(f"not an entry: {row!r}")
    if kind != "file":
        return Entry(path, kind, target=target)  # type: ignore[arg-type]  # just looked up
    return Entry(path, "file", row.get("executable", False) is True, size, BlobDigest(str(digest)))


def _tree_of(entries: tuple[Entry, ...]) -> TreeDigest:
    inside: dict[str, list[TreeEntry]] = {"": []}
    for entry in entries:
        if entry.type == "dir":
            inside[entry.path] = []
    for entry in reversed(entries):
        folder, _, name = entry.path.rpartition("/")
        # Children come after their parent, so walking backwards a folder is complete when it is reached.
        digest = tree_digest(inside[entry.path]) if entry.type == "dir" else entry.digest
        inside[folder].append(
            TreeEntry(name.encode(), entry.type, entry.executable, entry.size, digest, entry.target.encode())
        )
    return tree_digest(inside[""])
