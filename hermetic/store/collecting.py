"""The collector: remove what no root, profile or running build needs, with nobody able to see it half done.

Everything that decides happens with the collector alone (the exclusive side of the gc lock): mark, unlink the
records of the victims, one sync, move the outputs into the trash. From the sync on no reader can be shown a path
that is about to go, whatever dies and however; what takes long, unlinking the trash, happens with the lock released.
A collector that is stopped leaves what the next one finishes: trash, outputs without a record, manifests and blobs
that nobody refers to.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import attempts, records, trash
from hermetic.store.abandoned import Abandoned, abandoned, remove
from hermetic.store.choosing import Choice, Listing, choose
from hermetic.store.faults import storing
from hermetic.store.images import drop_marker
from hermetic.store.layout import Layout
from hermetic.store.leftovers import Leftover, leftovers
from hermetic.store.locks import collector_alone
from hermetic.store.pending import sync_file_system
from hermetic.store.realisation import Realisation
from hermetic.store.syncpoint import reach

if TYPE_CHECKING:
    from hermetic.store.store import Store

__all__ = ["Collection", "Fate", "Wishes", "check_owner", "collect"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to collect: everything dead, unless a field narrows it.

    With `max_size` or `min_free`, in bytes, only as much as it takes until the outputs take no more than the one, or
    the file system has the other free. With `older_than`, in seconds, only what was realised that long ago; the
    attempts that ended before then go too, with their logs, and what failed builds and downloads left before then.
    With `failed` all that these left.
    """

    max_size: int | None = None
    min_free: int | None = None
    older_than: float | None = None
    failed: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one store path, or would become of it.

    `freed` are the bytes that went with it and that no surviving path shares, counted for the last to go of those
    that share them; `key` is None for what has no record.
    """

    path: Path
    key: Key | None
    removed: bool
    freed: int
    reason: str


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did, or with `dry_run` would do.

    `freed` are bytes of files; `attempts` says how many records of builds went, `short` how many bytes are missing to
    what was asked for although everything dead is gone.
    """

    fates: tuple[Fate, ...]
    freed: int
    attempts: int
    short: int
    dry_run: bool

    @property
    def removed(self) -> tuple[Fate, ...]:
        return tuple(fate for fate in self.fates if fate.removed)

    @property
    def kept(self) -> tuple[Fate, ...]:
        return tuple(fate for fate in self.fates if not fate.removed)


def collect(store: Store, wishes: Wishes) -> Collection:
    """Collect in `store`. Waits for whoever is just entering an output, making a root or taking a lease.

    Raises `HermeticError`: store/unreadable-root and store/unreadable-lease, before anything is touched;
    environment/not-the-owner; environment/store-read-only.
    """
    layout = store.layout
    check_owner(layout.root)
    with storing(layout.root):
        with collector_alone(layout.root):
            listing = Listing(layout)
            recorded = {*listing.by_name, *(key.base32 for key in listing.damaged)}
            found = leftovers(layout, recorded)
            left = abandoned(layout)
            going = [one for one in left if not one.busy and _is_over(one, wishes)]
            spare = sum(leftover.size for leftover in found) + sum(one.size for one in going)
            choice = choose(layout, listing, wishes.max_size, wishes.min_free, _before(wishes), spare=spare)
            reach("gc.after-mark")
            if not wishes.dry_run:
                outputs = [listing.paths[record.key.hex] for record in choice.victims]
                _take_away(layout, listing, choice, [*outputs, *(str(leftover.path) for leftover in found)])
                for one in going:
                    remove(layout, one)
                    reach("gc.after-abandoned")
        reach("gc.after-release")
        if not wishes.dry_run:
            trash.empty(layout)
            trash.sweep_blobs(layout)
            _sweep_resolved(layout, listing)
        pruned = _prune(store, wishes, choice)
    report = _report(layout, wishes, listing, choice, found, pruned)
    fates = [_left(one, removed=one in going) for one in left]
    return replace(report, fates=(*report.fates, *fates), freed=report.freed + sum(fate.freed for fate in fates))


def _is_over(one: Abandoned, wishes: Wishes) -> bool:
    before = _before(wishes)
    return wishes.failed or (before is not None and one.touched < before)


def _left(one: Abandoned, *, removed: bool) -> Fate:
    hint = "" if removed else "; somebody is at it" if one.busy else "; --failed removes it"
    return Fate(one.path, None, removed, one.size if removed else 0, one.reason + hint)


def check_owner(root: str) -> None:
    """Whoever collects removes what others put in. Raises `HermeticError` (environment/not-the-owner)."""
    owner = os.stat(root).st_uid
    if os.geteuid() not in (0, owner):
        raise HermeticError(
            Domain.ENVIRONMENT,
            "not-the-owner",
            f"the store at {root} belongs to user {owner}; only they or root may collect in it",
            hint="ask them to run `hermetic gc`",
        )


def _before(wishes: Wishes) -> float | None:
    return None if wishes.older_than is None else time.time() - wishes.older_than


def _take_away(layout: Layout, listing: Listing, choice: Choice, outputs: list[str]) -> None:
    """Unlink the records, make sure of it, and move what they vouched for out of sight."""
    trash.each(lambda record: _forget(layout, listing, record), choice.victims)
    if choice.victims:
        # Or after a power loss a record could be back whose output is not.
        sync_file_system(layout.root)
    reach("gc.after-sync")
    for path in outputs:
        trash.throw(layout, path)
        reach("gc.after-move")
    needed = {record.tree.hex for record in choice.survivors}
    unneeded = [name for name in records.names_below(layout.folder("trees")) if name not in needed]
    trash.each(lambda name: _forget_manifest(f"{layout.root}/trees/{name[:2]}/{name}"), unneeded)


def _forget(layout: Layout, listing: Listing, record: Realisation) -> None:
    image = listing.images.get(record.key.hex)
    if image is not None:
        drop_marker(image)
        reach("gc.after-image")
        return
    if record.resolved is not None:
        _forget_resolved(layout.resolved(record.resolved), record.key.hex)
        reach("gc.after-resolved")
    trash.unlink(layout.record(record.key))
    reach("gc.after-record")


def _forget_manifest(path: str) -> None:
    trash.unlink(path)
    reach("gc.after-manifest")


def _sweep_resolved(layout: Layout, listing: Listing) -> None:
    """Drop what says that a key resolved so and so, but is not in the key's record: a killed run left it."""
    folder = layout.folder("resolved")
    stale = [
        (name, key)
        for name in records.names_below(folder)
        for key in _names(f"{folder}/{name[:2]}/{name}")
        if not _is_resolved(listing.by_key.get(key), name)
    ]
    if not stale:
        return
    with collector_alone(layout.root):  # looked at again: it may be a path that was entered since
        for name, key in stale:
            if not _is_resolved(records.read_record(layout, Key(key)), name):
                _forget_resolved(f"{folder}/{name[:2]}/{name}", key)
                reach("gc.after-stale")


def _is_resolved(record: Realisation | None, name: str) -> bool:
    return record is not None and record.resolved is not None and record.resolved.hex == name


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _forget_resolved(folder: str, key: str) -> None:
    trash.unlink(f"{folder}/{key}")
    with suppress(OSError):  # others resolved so too
        os.rmdir(folder)


def _prune(store: Store, wishes: Wishes, choice: Choice) -> int:
    before = _before(wishes)
    if before is None:
        return 0
    alive = {record.key.base32 for record in choice.survivors}
    return attempts.prune(store.layout, before, alive, dry_run=wishes.dry_run)


def _report(
    layout: Layout, wishes: Wishes, listing: Listing, choice: Choice, found: list[Leftover], pruned: int
) -> Collection:
    def fate(record: Realisation, *, removed: bool) -> Fate:
        key = record.key.hex
        freed = choice.freed[key] if removed else 0
        return Fate(
            Path(listing.paths[key]), None if key in listing.images else record.key, removed, freed, choice.reasons[key]
        )

    doubt = "it cannot be read: `hermetic verify --repair` drops it"
    fates = (
        *(fate(record, removed=True) for record in choice.victims),
        *(Fate(leftover.path, None, True, leftover.size, leftover.reason) for leftover in found),
        *(fate(record, removed=False) for record in choice.survivors),
        *(Fate(Path(layout.record(key)), key, False, 0, doubt) for key in listing.damaged),
    )
    return Collection(fates, sum(fate.freed for fate in fates), pruned, choice.short, wishes.dry_run)
