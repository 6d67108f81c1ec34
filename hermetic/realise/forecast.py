"""What a plan will cost, and why each stage is built: guesses from what this store has seen, said as such."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hermetic.canonical import Value
from hermetic.derivation import Derivation
from hermetic.digest import Key
from hermetic.realise.display import human_bytes
from hermetic.realise.explain import changes, nearest
from hermetic.realise.plan import Plan
from hermetic.store import Store

__all__ = ["Disk", "Expected", "disk", "forecast", "least_disk"]

_FIELDS = 3  # of a reason; why-rebuild has them all

_Earlier = dict[tuple[object, object], list[tuple[Key, Mapping[str, Value]]]]


@dataclass(frozen=True, slots=True)
class Expected:
    """Of one stage to build: why, and the seconds and bytes of its last build (None: never built here).

    `estimate` are bytes that the stage expects of itself if it never was (None: it does not know).
    """

    reason: str
    seconds: float | None
    size: int | None
    estimate: int | None = None

    @property
    def bytes(self) -> int | None:
        """The best guess."""
        return self.estimate if self.size is None else self.size


@dataclass(frozen=True, slots=True)
class Disk:
    """What the store's disk must hold: `needed` bytes more than now when all is done, `free` bytes there are now.

    Nothing is removed on the way and results are moved, not copied, so the end is the peak, but for the files that a
    stage makes and does not keep. `unknown` stages never left a result here and expect nothing, and count for nothing.
    """

    needed: int
    free: int
    unknown: int

    @property
    def short(self) -> int:
        """Bytes that are missing, as far as is known."""
        return max(0, self.needed - self.free)

    def warning(self, root: str) -> str:
        """For people, of a disk that is too small."""
        needed, free = human_bytes(self.needed), human_bytes(self.free)
        return f"{root} has {free} free and needs {needed}: hermetic gc, or another --store"


def disk(plan: Plan, expected: Mapping[Key, Expected], store: Store) -> Disk:
    """What `plan` takes of the disk."""
    return _disk(plan, [guess.bytes for guess in expected.values()], store)


def least_disk(plan: Plan, store: Store) -> Disk:
    """The same from what stages say of themselves alone, which reads nothing of the store's history."""
    return _disk(plan, [item.stage.expected_bytes() for item in plan.to_build], store)


def _disk(plan: Plan, built: list[int | None], store: Store) -> Disk:
    fetched = sum(item.fixed.size for item in plan.to_fetch if item.fixed is not None)
    status = os.statvfs(store.root)
    needed = fetched + sum(size or 0 for size in built)
    return Disk(needed, status.f_bavail * status.f_frsize, sum(size is None for size in built))


def forecast(to_build: Iterable[Derivation], store: Store) -> dict[Key, Expected]:
    """One `Expected` for each derivation. Reads every preimage in the store once."""
    wanted = list(to_build)
    now = {derivation.key: derivation.preimage for derivation in wanted}
    earlier: _Earlier = defaultdict(list)
    for key, preimage in store.preimages():
        earlier[preimage.get("stage"), preimage.get("name")].append((key, preimage))
    seconds = store.durations()
    return {derivation.key: _expected(derivation, earlier, seconds, store, now) for derivation in wanted}


def _expected(
    derivation: Derivation,
    earlier: _Earlier,
    seconds: Mapping[str, float],
    store: Store,
    now: Mapping[Key, dict[str, Value]],
) -> Expected:
    same_stage = earlier.get((derivation.preimage["stage"], derivation.name), [])
    known = [found.size for key, _ in same_stage if (found := store.realisation(key)) is not None]
    reason = _reason(derivation, same_stage, store, now)
    size = known[0] if known else None
    return Expected(
        reason, seconds.get(derivation.name), size, derivation.stage.expected_bytes() if size is None else None
    )


def _reason(
    derivation: Derivation,
    same_stage: list[tuple[Key, Mapping[str, Value]]],
    store: Store,
    now: Mapping[Key, dict[str, Value]],
) -> str:
    if any(key == derivation.key for key, _ in same_stage):
        return "built before, but no longer in the store"
    found = nearest(derivation.preimage, iter(same_stage))
    if found is None:
        return "new"
    fields = [
        change.where
        for change in changes(found[1], derivation.preimage, store.preimage, now.get)
        if not change.where.endswith(".key")
    ]
    if not fields:
        return "an input is built again"
    more = f" and {len(fields) - _FIELDS} more" if len(fields) > _FIELDS else ""
    return "changed: " + ", ".join(fields[:_FIELDS]) + more
