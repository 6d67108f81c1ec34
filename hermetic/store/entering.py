"""The steps by which a tree becomes a realisation, in the one order that survives a kill between any two of them.

What is in ``store/`` before its record is written does not exist for any reader, and the next holder of the key's
lock replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hermetic import canonical
from hermetic.digest import Key, ResolvedKey, TreeDigest
from hermetic.errors import Domain, HermeticError
from hermetic.store import manifest, realisation
from hermetic.store.blobs import Blobs
from hermetic.store.copying import copy_tree
from hermetic.store.faults import storing
from hermetic.store.hashing import Needles
from hermetic.store.ingest import (
    Progress,
    absorb,
    check_targets,
    close_folder,
    close_folders,
    open_top,
)
from hermetic.store.layout import make_folders, write_atomic
from hermetic.store.locks import collector_locked_out
from hermetic.store.realisation import Realisation
from hermetic.store.removal import remove_tree
from hermetic.store.syncpoint import reach
from hermetic.store.walk import OPEN_FOLDER, Survey, survey

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store.store import Store

__all__ = ["Entrance"]


class Entrance:
    """One key's way into the store. For one ingest or adoption, with the key's lock held."""

    def __init__(
        self,
        store: Store,
        run: str,
        key: Key,
        name: str,
        preimage: dict[str, Value],
        resolved: ResolvedKey | None,
    ) -> None:
        self._store = store
        self._layout = store.layout
        self._run = run
        self._key = key
        self._name = name
        self._preimage = canonical.encode(preimage)  # before anything is moved: it may not be encodable
        self._resolved = resolved
        self._output = self._layout.output(key, name)

    def ingest(self, tree: str, record: dict[str, Any], needles: Needles, progress: Progress | None) -> Realisation:
        if (existing := self._store.realisation(self._key)) is not None:
            return existing
        with self._scratch() as (scratch, descriptor):
            top = open_top(tree)
            try:
                found = survey(top, self._store.limits, record["references"])
                check_targets(found, needles)
                reach("ingest.after-survey")
                if not self._is_workspace(tree):
                    tree, top = self._bring(found, top, scratch)
                    reach("ingest.after-copy")
                blobs = Blobs(self._layout, descriptor)
                with self._undone_on_failure(blobs):
                    absorb(top, found, blobs, needles, progress)
                    reach("ingest.after-files")
                    close_folders(top, found)
                    reach("ingest.after-folders")
                    digest, data = manifest.digest_folders(found), manifest.encode(found)
                    # A manifest that no record names is garbage, and so is an output without a record.
                    with collector_locked_out(self._layout.root):
                        manifest.write(self._layout, digest, data)
                        reach("ingest.after-manifest")
                        self._enter(tree, top, digest, found.size, record)
            finally:
                os.close(top)
        return self._done()

    def adopt(self, existing: Realisation, platform: dict[str, Value], *, impure: bool) -> Realisation:
        if (present := self._store.realisation(self._key)) is not None:
            return present
        # What is adopted, and its manifest, must still be there when the new record names them.
        with collector_locked_out(self._layout.root), self._scratch() as (scratch, descriptor):
            known = manifest.read(self._layout, existing.tree)
            reach("adopt.after-manifest")
            old = open_top(self._layout.output(existing.key, existing.name))
            try:
                found = survey(old, self._store.limits, existing.references)
                _match(found, known, self._layout.output(existing.key, existing.name))
                tree, top = self._rebuild(found, old, scratch, link=True)
            finally:
                os.close(old)
            try:
                reach("adopt.after-links")
                with self._undone_on_failure(Blobs(self._layout, descriptor)):
                    close_folders(top, found)
                    record = {"references": existing.references, "platform": platform, "impure": impure, "build": ""}
                    self._enter(tree, top, existing.tree, found.size, record)
            finally:
                os.close(top)
        return self._done()

    def _enter(self, tree: str, top: int, digest: TreeDigest, size: int, record: dict[str, Any]) -> None:
        written = Realisation(self._key, self._name, digest, size, resolved=self._resolved, run=self._run, **record)
        self._clear()
        os.rename(tree, self._output)
        reach("enter.after-rename")
        close_folder(top)
        reach("enter.after-mode")
        write_atomic(self._layout, self._layout.preimage(self._key), self._preimage)
        reach("enter.after-preimage")
        if self._resolved is not None:
            _touch(f"{self._layout.resolved(self._resolved)}/{self._key.hex}")
            reach("enter.after-resolved")
        write_atomic(self._layout, self._layout.record(self._key), realisation.encode(written))
        reach("enter.after-record")

    def _clear(self) -> None:
        """Take away what a killed or cut-off run left in our place: its record first, or it would vouch for ours."""
        _forget(self._layout.record(self._key))
        reach("enter.after-old-record")
        remove_tree(self._output)
        reach("enter.after-old-output")

    def _done(self) -> Realisation:
        made = self._store.realisation(self._key)
        if made is None:
            raise HermeticError(Domain.BUG, "not-realised", f"{self._output} was entered but cannot be found")
        return made

    def _bring(self, found: Survey, old: int, scratch: str) -> tuple[str, int]:
        """Copy a tree from elsewhere into the run's own folder."""
        with storing(self._layout.root):
            brought = self._rebuild(found, old, scratch, link=False)
        for _, file in found.files():
            file.inode = None  # the links were those of the original
        os.close(old)
        return brought

    def _rebuild(self, found: Survey, old: int, scratch: str, *, link: bool) -> tuple[str, int]:
        tree = f"{scratch}/out"
        os.mkdir(tree, 0o755)
        top = os.open(tree, OPEN_FOLDER)
        try:
            copy_tree(found, old, top, link=link)
        except BaseException:
            os.close(top)
            raise
        return tree, top

    def _is_workspace(self, tree: str) -> bool:
        inside = os.path.realpath(tree).startswith(os.path.realpath(self._layout.folder("tmp")) + "/")
        return inside and os.stat(tree).st_dev == os.stat(f"{self._layout.root}/store").st_dev

    @contextmanager
    def _scratch(self) -> Iterator[tuple[str, int]]:
        """A folder of the run's own for links and copies on their way."""
        path = self._layout.temporary(f"{self._run}-{os.urandom(8).hex()}")
        with storing(self._layout.root):
            os.mkdir(path, 0o700)
            descriptor = os.open(path, OPEN_FOLDER)
            try:
                yield path, descriptor
            finally:
                os.close(descriptor)
                remove_tree(path)

    @contextmanager
    def _undone_on_failure(self, blobs: Blobs) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if not os.path.exists(self._layout.record(self._key)):
                remove_tree(self._output)
                blobs.forget()
            raise


def _match(found: Survey, known: manifest.Manifest, output: str) -> None:
    """Hold what lies in an output against its manifest, short of reading the files."""
    if _outline(found) != {_line(entry) for entry in known.entries}:
        raise HermeticError(
            Domain.STORE,
            "corrupt",
            f"{output} is not what its record says",
            hint="run `hermetic verify` to see what differs",
        )


def _outline(found: Survey) -> set[tuple[str, str, bool, int, str]]:
    lines = {(b"/".join(folder.parts).decode(), "dir", False, 0, "") for folder in found.folders[1:]}
    for folder in found.folders:
        lines |= {(folder.inside(f.name).decode(), "file", f.executable, f.size, "") for f in folder.files}
        lines |= {(folder.inside(s.name).decode(), "symlink", False, 0, s.target.decode()) for s in folder.links}
    return lines


def _line(entry: manifest.Entry) -> tuple[str, str, bool, int, str]:
    return entry.path, entry.type, entry.executable, entry.size, entry.target


def _touch(path: str) -> None:
    make_folders(os.path.dirname(path))
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))  # another member's cannot be written


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
