"""Why a stage is built again, field by field, and why one store path needs another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hermetic.canonical import Value
from hermetic.digest import Key

__all__ = ["Change", "changes", "nearest", "paths_between"]

Preimages = Callable[[Key], Mapping[str, Value] | None]

_ABSENT = "(default)"


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs: its dotted place, what it was and what it is. `depth` counts the inputs above it."""

    where: str
    before: str
    after: str
    depth: int = 0


def nearest(
    preimage: Mapping[str, Value], earlier: Iterator[tuple[Key, Mapping[str, Value]]]
) -> tuple[Key, Mapping[str, Value]] | None:
    """The earlier preimage of the same stage, by kind and name, that differs in the fewest fields.

    Of equally near ones the first that `earlier` gives, so give the newest first.
    """
    best: tuple[int, Key, Mapping[str, Value]] | None = None
    for key, candidate in earlier:
        if (candidate.get("stage"), candidate.get("name")) != (preimage.get("stage"), preimage.get("name")):
            continue
        distance = sum(1 for _ in _leaves(candidate, preimage, ""))
        if distance and (best is None or distance < best[0]):
            best = (distance, key, candidate)
    return (best[1], best[2]) if best is not None else None


def changes(
    before: Mapping[str, Value], after: Mapping[str, Value], old: Preimages, new: Preimages
) -> Iterator[Change]:
    """Every field that differs; under an input whose key changed, what changed in that input, and so on.

    `old` and `new` give preimages by key. An input that two stages share is explained once.
    """
    seen: set[tuple[str, str]] = set()
    pending: list[tuple[int, str, Mapping[str, Value], Mapping[str, Value]]] = [(0, "", before, after)]
    while pending:
        depth, prefix, left, right = pending.pop()
        for where, one, other in _leaves(left, right, ""):
            yield Change(prefix + where, one, other, depth)
            if not (where.startswith("inputs.") and where.endswith(".key")) or (one, other) in seen:
                continue
            seen.add((one, other))
            inner_left, inner_right = _preimage(one, old), _preimage(other, new)
            if inner_left is not None and inner_right is not None:
                role = where.removeprefix("inputs.").removesuffix(".key")
                pending.append((depth + 1, f"{prefix}{role} > ", inner_left, inner_right))


def _preimage(key: str, preimages: Preimages) -> Mapping[str, Value] | None:
    return None if key == _ABSENT else preimages(Key(key))


def _leaves(
    before: Value | Mapping[str, Value], after: Value | Mapping[str, Value], where: str
) -> Iterator[tuple[str, str, str]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            yield from _leaves(
                before.get(name, _ABSENT), after.get(name, _ABSENT), f"{where}.{name}" if where else name
            )
    elif isinstance(before, Mapping) or isinstance(after, Mapping):
        yield from _leaves(_as_table(before), _as_table(after), where)
    elif before != after:
        yield where, _shown(before), _shown(after)


def _as_table(value: Value | Mapping[str, Value]) -> Mapping[str, Value]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def paths_between(start: Key, end: Key, preimages: Preimages) -> list[list[tuple[str, Key]]]:
    """The shortest chains of inputs that lead from `start` to `end`, each as (role, key) steps; empty without one."""
    trails: list[list[tuple[str, Key]]] = [[("", start)]]
    seen: set[Key] = {start}
    while trails:
        found = [trail for trail in trails if trail[-1][1] == end]
        if found:
            return found
        longer = [[*trail, step] for trail in trails for step in _inputs(preimages(trail[-1][1]))]
        fresh = {trail[-1][1] for trail in longer} - seen
        trails = [trail for trail in longer if trail[-1][1] in fresh]
        seen |= fresh
    return []


def _inputs(preimage: Mapping[str, Value] | None) -> Iterator[tuple[str, Key]]:
    inputs = (preimage or {}).get("inputs", {})
    if isinstance(inputs, dict):
        for role, item in inputs.items():
            if isinstance(item, dict) and item.get("kind") == "built":
                yield role, Key(str(item["key"]))
