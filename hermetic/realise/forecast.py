"""What a plan will cost, and why each stage is built: guesses from what this store has seen, said as such."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hermetic.canonical import Value
from hermetic.derivation import Derivation
from hermetic.digest import Key
from hermetic.realise.explain import changes, nearest
from hermetic.store import Store

__all__ = ["Expected", "forecast"]

_FIELDS = 3  # of a reason; why-rebuild has them all

_Earlier = dict[tuple[object, object], list[tuple[Key, Mapping[str, Value]]]]


@dataclass(frozen=True, slots=True)
class Expected:
    """Of one stage to build: why, and the seconds and bytes of its last build (None: never built here)."""

    reason: str
    seconds: float | None
    size: int | None


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
    return Expected(reason, seconds.get(derivation.name), known[0] if known else None)


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
