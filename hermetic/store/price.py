"""What it would cost to have a path back, and so in which order paths make room: cheapest for its bytes first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from hermetic.digest import TreeDigest
from hermetic.store import attempts
from hermetic.store.layout import Layout
from hermetic.store.realisation import Realisation
from hermetic.store.usage import Contents

__all__ = ["DOWNLOAD_BYTES_PER_S", "cheapest_first", "seconds_to_regain"]

#: How fast a source, an environment or whatever else no stage made is assumed to come back: a line of 200 Mbit/s.
DOWNLOAD_BYTES_PER_S = 25e6

_LEAST_S = 0.5  # attempts are recorded in whole seconds


def seconds_to_regain(layout: Layout, records: Iterable[Realisation]) -> dict[str, float]:
    """For each record's base-32 key, the seconds that its last successful build took.

    An adopted output costs what the one it came from cost. What nobody built counts as a download, an import as
    priceless: hermetic cannot bring it back.
    """
    built = attempts.successes(layout)
    records = list(records)
    by_tree: dict[TreeDigest, float] = {}
    for record in records:
        if record.key.base32 in built:
            by_tree[record.tree] = min(by_tree.get(record.tree, math.inf), max(built[record.key.base32], _LEAST_S))
    return {record.key.base32: by_tree.get(record.tree) or _fetched(layout, record) for record in records}


def _fetched(layout: Layout, record: Realisation) -> float:
    return math.inf if _imported(layout, record) else max(record.size / DOWNLOAD_BYTES_PER_S, _LEAST_S)


def _imported(layout: Layout, record: Realisation) -> bool:
    if record.build or not record.impure:
        return False
    try:
        with open(layout.preimage(record.key), "rb") as file:
            return bool(json.loads(file.read())["stage"] == "import")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def cheapest_first(
    victims: list[Realisation], seconds: Mapping[str, float], contents: Contents, survivors: Iterable[Realisation]
) -> list[Realisation]:
    """`victims` by seconds per byte that goes with them, each after whatever refers to it.

    Bytes that several victims share are split evenly; bytes that a survivor has count for nobody.
    """
    safe = {blob for record in survivors for blob in contents.of(record.tree)}
    users: dict[str, int] = {}
    for record in victims:
        for blob in contents.of(record.tree):
            users[blob] = users.get(blob, 0) + 1

    def price(record: Realisation) -> tuple[float, float, str]:
        files = contents.of(record.tree).items()
        share = sum(size / users[blob] for blob, size in files if blob not in safe)
        cost = seconds[record.key.base32]
        return cost / share if share else math.inf, cost, record.key.hex

    return _referrers_first(sorted(victims, key=price))


def _referrers_first(ordered: list[Realisation]) -> list[Realisation]:
    """The same order, but nothing goes before what refers to it: a surviving path's references survive."""
    referrers: dict[str, list[Realisation]] = {}
    for record in ordered:
        for key in record.references:
            referrers.setdefault(key.base32, []).append(record)
    done: dict[str, Realisation] = {}
    for record in ordered:
        waiting = [record]
        while waiting:
            here = waiting[-1]
            if before := referrers.pop(here.key.base32, None):
                waiting += before
            else:
                done.setdefault(waiting.pop().key.base32, here)
    return list(done.values())
