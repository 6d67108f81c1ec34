"""A tree that is put together from files of this machine: its digest before it exists, and the tree itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hermetic.digest import TreeDigest, TreeEntry, tree_digest
from hermetic.recipe.memo import Memo

__all__ = ["Assembly"]


@dataclass(slots=True)
class Assembly:
    """Names inside (with "/") to the files they are copied from, and to the text of symlinks.

    Symlinks of this machine are followed: what is copied is always the file.
    """

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    executable: frozenset[str] = frozenset()

    def digest(self, memo: Memo) -> TreeDigest:
        """The digest that `build`'s result has. Reads only files whose stat `memo` does not know."""
        root: _Folder = {}
        for name, path in self.files.items():
            digest, size, _ = memo.blob(path)
            _put(root, name, TreeEntry(_last(name), "file", name in self.executable, size, digest))
        for name, text in self.links.items():
            _put(root, name, TreeEntry(_last(name), "symlink", target=text.encode()))
        return _digest(root)

    def build(self, target: str, progress: Callable[[int], None] | None = None) -> None:
        """Copy everything into the folder `target`, which exists; `progress` is told the bytes of each file."""
        for name, path in self.files.items():
            place = f"{target}/{name}"
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copyfile(path, place)
            os.chmod(place, 0o755 if name in self.executable else 0o644)
            if progress is not None:
                progress(os.path.getsize(place))
        for name, text in self.links.items():
            os.makedirs(os.path.dirname(f"{target}/{name}"), exist_ok=True)
            os.symlink(text, f"{target}/{name}")


_Folder = dict[str, "TreeEntry | _Folder"]


def _last(name: str) -> bytes:
    return os.fsencode(name.rpartition("/")[2])


def _put(root: _Folder, name: str, entry: TreeEntry) -> None:
    *folders, last = name.split("/")
    for folder in folders:
        inner = root.setdefault(folder, {})
        assert isinstance(inner, dict)
        root = inner
    root[last] = entry


def _digest(folder: Mapping[str, TreeEntry | _Folder]) -> TreeDigest:
    entries = [
        entry if isinstance(entry, TreeEntry) else TreeEntry(os.fsencode(name), "dir", digest=_digest(entry))
        for name, entry in folder.items()
    ]
    return tree_digest(entries)
