"""Files and folders that a recipe brings along, identified by content."""

from __future__ import annotations

import os
import stat

from hermetic.digest import TreeDigest, TreeEntry, tree_digest
from hermetic.errors import Domain, HermeticError
from hermetic.recipe import evaluation
from hermetic.recipe.memo import Memo

__all__ = ["SINGLE", "Source", "hash_source"]

SINGLE = b"file"  # what the one entry of a file's tree is called


class Source:
    """A file or folder beside the recipe (or anywhere, by absolute path).

    It stands in keys by the digest of its content, so where it lies and when it was touched do not matter. Symlinks
    in a folder must stay inside it. A file's own name is not part of its identity: a stage finds the file as
    ``/build/in/<role>``.
    """

    __slots__ = ("_origin", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = evaluation.resolve(path)
        self._origin = evaluation.origin()
        if not os.path.lexists(self.path):
            evaluation.fail("source-missing", f"the source {os.fspath(path)!r} does not exist ({self.path})")

    def __repr__(self) -> str:
        return f"Source({self.path!r})"

    @property
    def where(self) -> evaluation.Origin | None:
        """The line of the recipe that names it."""
        return self._origin

    @property
    def name(self) -> str:
        return os.path.basename(self.path.rstrip(os.sep)) or "source"


def hash_source(source: Source, memo: Memo) -> TreeDigest:
    """The tree digest of `source` as it is now.

    Raises `HermeticError` (recipe/source-…) on anything that is no file, folder or inner symlink, or is unreadable.
    """
    status = memo.observe(source.path)
    try:
        if status is None:
            raise _refuse(source, "source-missing", source.path, "does not exist")
        if stat.S_ISDIR(status.st_mode):
            return _folder(source, memo)
        if not stat.S_ISREG(status.st_mode):
            raise _refuse(source, "source-special-file", source.path, "is neither a file nor a folder")
        digest, size, executable = memo.blob(source.path)
        return tree_digest([TreeEntry(SINGLE, "file", executable, size, digest)])
    except OSError as error:
        raise _refuse(source, "source-unreadable", error.filename or source.path, error.strerror or "") from error


def _folder(source: Source, memo: Memo) -> TreeDigest:
    """Hash bottom-up without recursion: a source may be deeper than Python's stack."""
    digests: dict[str, TreeDigest] = {}
    pending = [source.path]
    order = []
    while pending:
        folder = pending.pop()
        memo.observe(folder, follow=False)
        with os.scandir(folder) as found:
            entries = list(found)
        order.append((folder, entries))
        pending.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    for folder, entries in reversed(order):
        digests[folder] = tree_digest([_entry(source, entry, digests, memo) for entry in entries])
    return digests[source.path]


def _entry(source: Source, entry: os.DirEntry[str], digests: dict[str, TreeDigest], memo: Memo) -> TreeEntry:
    name = os.fsencode(entry.name)
    if entry.is_symlink():
        memo.observe(entry.path, follow=False)
        return TreeEntry(name, "symlink", target=_inner_target(source, entry))
    if entry.is_dir(follow_symlinks=False):
        return TreeEntry(name, "dir", digest=digests[entry.path])
    if not entry.is_file(follow_symlinks=False):
        raise _refuse(source, "source-special-file", entry.path, "is neither a file, a folder nor a symlink")
    digest, size, executable = memo.blob(entry.path)
    return TreeEntry(name, "file", executable, size, digest)


def _inner_target(source: Source, entry: os.DirEntry[str]) -> bytes:
    target = os.readlink(entry.path)
    landing = os.path.normpath(os.path.join(os.path.dirname(entry.path), target))
    if os.path.isabs(target) or not (landing + os.sep).startswith(source.path + os.sep):
        raise _refuse(source, "source-symlink-escapes", entry.path, f"points out of the source, to {target}")
    return os.fsencode(target)


def _refuse(source: Source, reason: str, path: str, problem: str) -> HermeticError:
    place = f"{source.where}: " if source.where else ""
    return HermeticError(Domain.RECIPE, reason, f"{place}source {source.path}: {path} {problem}")
