"""The same recipe in two empty stores: every stage must have the same tree digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bench.place import Place
from bench.rows import Row
from bench.timing import once


def measure(place: Place) -> Iterator[Row]:
    for store in ("one", "two"):
        once(place.hermetic("realise", place.recipe, "--out-link", f"result-{store}", store=store))
    one, two = (trees(place.folder / store) for store in ("one", "two"))
    different = sorted(one[key][0] for key in one if two.get(key) != one[key])
    only_two = sorted(two[key][0] for key in two.keys() - one.keys())
    named = ", ".join(different + only_two)
    yield Row("two_stores", "store paths with another tree", len(different + only_two), "of", limit=0, note=named)
    yield Row("two_stores", "store paths compared", len(one), "")


def trees(store: Path) -> dict[str, tuple[str, str]]:
    """Name and tree digest of every realisation by key."""
    records = [json.loads(path.read_bytes()) for path in (store / "realisations").glob("*/*")]
    return {record["key"]: (record["name"], record["tree"]) for record in records}
