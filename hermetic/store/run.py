"""One driver process' session with the store: its leases, its workspaces, and what it puts in."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hermetic.digest import Key, ResolvedKey
from hermetic.store.entering import Entrance
from hermetic.store.faults import storing
from hermetic.store.hashing import Needles
from hermetic.store.ingest import Progress, store_names
from hermetic.store.locks import collector_locked_out, hold, is_held
from hermetic.store.pending import sync_file_system
from hermetic.store.realisation import Realisation
from hermetic.store.removal import remove_tree
from hermetic.store.syncpoint import reach

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store.store import Store

__all__ = ["Run", "Workspace"]


class Workspace:
    """A fresh folder on the store's file system for one attempt at a build."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def close(self, keep: bool = False) -> None:
        """Remove it, whatever a build left in it; with `keep` leave it for its user until `Store.discard`."""
        if keep:
            Path(f"{self.path}.kept").touch()
        else:
            remove_tree(str(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not os.path.exists(f"{self.path}.kept"):
            self.close()


class Run:
    """Made by `Store.begin`. All methods may be called from any thread.

    While it lives a file under ``leases/`` is locked: it names the keys that the collector must leave alone, and tells
    other processes that this run's workspaces are in use. The kernel unlocks it when the process dies, however it
    dies, and the next run sweeps up.
    """

    def __init__(self, store: Store) -> None:
        self.id = os.urandom(8).hex()
        self._store = store
        self._layout = store.layout
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._marked = False
        self._lease_path = f"{self._layout.root}/leases/{self.id}"
        self._lease: int | None = None
        with storing(self._layout.root), collector_locked_out(self._layout.root):
            self._lease = hold(self._lease_path)
        reach("run.after-lease")

    @property
    def store(self) -> Store:
        """The store that this is a run of."""
        return self._store

    def lease(self, keys: Iterable[Key]) -> None:
        """Keep the paths of `keys` from the collector until this run ends, whether or not they exist yet.

        Take it before looking whether they do.
        """
        assert self._lease is not None
        lines = "".join(f"{key.hex}\n" for key in keys).encode("ascii")
        with storing(self._layout.root), collector_locked_out(self._layout.root):
            while lines:
                lines = lines[os.write(self._lease, lines) :]

    def workspace(self) -> Workspace:
        """A fresh, empty folder, of mode 0700, that goes with this run at the latest (unless it is kept)."""
        # Before a build fills the disk's queue: a sync after it would wait for all of it.
        self.mark()
        path = self._layout.temporary(f"{self.id}-{next(self._numbers)}")
        with storing(self._layout.root):
            os.mkdir(path, 0o700)
        return Workspace(Path(path))

    def mark(self) -> None:
        """Make sure that this run's pending marker is on the disk."""
        with self._guard, storing(self._layout.root):
            if not self._marked:
                self._store.pending.mark(self.id)
                self._marked = True
                reach("run.after-marker")

    def ingest(
        self,
        tree: Path,
        *,
        key: Key,
        name: str,
        preimage: dict[str, Value],
        resolved: ResolvedKey | None,
        references: Sequence[Key] = (),
        platform: Mapping[str, Value] | None = None,
        impure: bool = False,
        build: str = "",
        forbid: Sequence[bytes] = (),
        verbatim: bool = False,
        progress: Progress | None = None,
    ) -> Realisation:
        """Make the folder `tree` the realised output of `key`. Call it with the key's lock held.

        A tree in one of the store's workspaces is moved; any other is copied and left as it was. Nothing may be
        writing to it. No file may name a path of a store; `forbid` adds strings, and `verbatim` lets only these
        count, for what was brought from outside (a source, wheels). `progress` is told bytes done and bytes in all,
        from any thread. A key that is realised already keeps its output, and `tree` stays.

        Raises `HermeticError`: build/output-… when the tree may not enter a store (it is then left where it is, its
        modes perhaps changed), environment/store-full, environment/store-read-only. Nothing half-made is left.
        """
        self.mark()
        record = {"references": tuple(references), "platform": dict(platform or {}), "impure": impure, "build": build}
        entrance = Entrance(self._store, self.id, key, name, preimage, resolved)
        forbidden = tuple(forbid) if verbatim else store_names(self._layout.root, forbid)
        return entrance.ingest(str(tree), record, Needles(forbidden), progress)

    def adopt(
        self,
        existing: Realisation,
        *,
        key: Key,
        name: str,
        preimage: dict[str, Value],
        resolved: ResolvedKey | None,
        platform: Mapping[str, Value] | None = None,
        impure: bool = False,
    ) -> Realisation:
        """Give an output that is in the store to a second key, its files linked. Call it with `key`'s lock held.

        The new one is impure when either says so (P9). Raises `HermeticError`: store/corrupt when `existing` is not
        what its record says, environment/store-full, environment/store-read-only.
        """
        self.mark()
        entrance = Entrance(self._store, self.id, key, name, preimage, resolved)
        return entrance.adopt(existing, dict(platform or {}), impure=impure or existing.impure)

    def close(self) -> None:
        """Make everything durable, then give back leases and workspaces. Does nothing the second time.

        Raises `OSError` when the disk fails; the marker then stays, and the next boot will look at the results.
        """
        with self._guard:
            if self._lease is None:
                return
            try:
                if self._marked:
                    self._make_durable()
            finally:
                self._sweep_workspaces()
                os.unlink(self._lease_path)
                os.close(self._lease)
                self._lease = None

    def _make_durable(self) -> None:
        # Runs of this boot that died unsynced are made durable by the same call.
        pending, leases = self._store.pending, f"{self._layout.root}/leases"
        dead = [run for run in pending.of_this_boot() if run != self.id and not is_held(f"{leases}/{run}")]
        sync_file_system(self._layout.root)
        reach("close.after-sync")
        pending.clear([self.id, *dead])
        reach("close.after-marker")

    def _sweep_workspaces(self) -> None:
        for name in os.listdir(self._layout.folder("tmp")):
            if name.startswith(f"{self.id}-") and not name.endswith(".kept"):
                path = self._layout.temporary(name)
                if not os.path.exists(f"{path}.kept"):
                    remove_tree(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
