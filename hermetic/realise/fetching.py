"""Bring a fixed output into the store: fetched beside the builds, verified, entered, and found again after a kill."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hermetic.derivation import Derivation
from hermetic.digest import ResolvedKey
from hermetic.fetch.fixed import Fetch
from hermetic.realise.events import Event, Listener
from hermetic.recipe.lockfile import LockedFile
from hermetic.store import Realisation, Run, Store
from hermetic.store.abandoned import QUARANTINE
from hermetic.store.sweep import UNFINISHED

__all__ = ["Fetcher"]

_AT_ONCE: Final = 2


@dataclass
class Fetcher:
    """What the fetches of one run share."""

    store: Store
    run: Run
    listener: Listener
    _known: dict[str, list[str]] | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)
    # Each brings several files at a time, and takes a thread from those that enter outputs while it does.
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def fetch(self, derivation: Derivation, resolved: ResolvedKey) -> Realisation:
        """Fetch and enter one. Call it with the key's lock held.

        Raises `HermeticError`: hash/file-mismatch, hash/checkpoint-…, environment/disk-too-small, environment/hub-…,
        environment/origin-….
        """
        async with self._turn:
            return await self._fetch(derivation, resolved)

    async def _fetch(self, derivation: Derivation, resolved: ResolvedKey) -> Realisation:
        item = derivation.fixed
        assert item is not None
        self._tell("state", derivation, state="fetching")
        folder = str(self.store.root / "tmp" / f"{UNFINISHED}-{derivation.key.base32}")
        quarantine = str(self.store.root / QUARANTINE)
        count = _Count(item.size, lambda done, total: self._tell("progress", derivation, done=done, total=total))
        work = await asyncio.to_thread(Fetch, item, folder, quarantine, tell=count.add, nearby=self._nearby)
        out = await _stoppable(work)
        self._tell("state", derivation, state="storing")
        return await asyncio.to_thread(self._enter, derivation, resolved, out)

    def _enter(self, derivation: Derivation, resolved: ResolvedKey, out: str) -> Realisation:
        made = self.run.ingest(
            Path(out),
            key=derivation.key,
            name=derivation.name,
            preimage=derivation.preimage,
            resolved=resolved,
            verbatim=True,  # a tokenizer may hold any text
            progress=lambda done, total: self._tell("progress", derivation, done=done, total=total),
        )
        from hermetic.store import remove_tree  # noqa: PLC0415  # as the package loads it

        remove_tree(os.path.dirname(out))
        return made

    def _nearby(self, file: LockedFile) -> Iterator[str]:
        """Files of other fixed outputs in this store that have the same sha256."""
        with self._guard:
            if self._known is None:
                self._known = self._files_by_sha256()
        return iter(self._known.get(file.sha256, ()))

    def _files_by_sha256(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for key, preimage in self.store.preimages():
            files = preimage.get("files")
            if preimage.get("stage") != "fixed" or not isinstance(files, dict):
                continue
            self.run.lease([key])
            record = self.store.realisation(key)
            if record is not None:
                for name, file in files.items():
                    if isinstance(file, dict):
                        found.setdefault(str(file["sha256"]), []).append(f"{record.path(self.store)}/{name}")
        return found

    def _tell(self, kind: str, derivation: Derivation, **data: Any) -> None:
        self.listener(Event(kind, derivation.name, derivation.key.hex, data))


async def _stoppable(work: Fetch) -> str:
    """Run it in a thread; when this is cancelled, the thread has ended before the key's lock is given back."""

    def bring() -> str:
        out = work.bring()
        work.check(out)
        return out

    task = asyncio.ensure_future(asyncio.to_thread(bring))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        work.stop()
        await asyncio.wait([task])
        task.exception()  # that it was stopped; asyncio complains of exceptions that nobody has looked at
        raise


class _Count:
    """Bytes that have arrived, told at most a few hundred times in all: listeners draw or print each."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self._total, self._tell = total, tell
        self._step = max(total // 500, 1 << 16)
        self._done = self._told = 0
        self._guard = threading.Lock()

    def add(self, count: int) -> None:
        with self._guard:
            self._done += count
            if abs(self._done - self._told) >= self._step or self._done == self._total:
                self._told = self._done
                self._tell(self._done, self._total)
