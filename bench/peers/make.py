"""A Makefile of five targets in a chain: what is left when nothing is hashed, and nothing is confined."""

from __future__ import annotations

import itertools
from pathlib import Path

from bench.place import Place
from bench.timing import Command

__all__ = ["leaf_changed", "noop"]

_STAGES = ("weights", "quantised", "engine", "manifest", "smoke")


def noop(place: Place) -> Command:
    folder = place.below("make")
    _write(folder)
    return Command(["make", "--silent", _STAGES[-1]], cwd=folder)


def leaf_changed(place: Place) -> Command:
    """The last stage only: its recipe is told to run again."""
    folder = place.below("make")
    _write(folder)
    return Command(["make", "--silent", f"--what-if={_STAGES[-2]}", _STAGES[-1]], cwd=folder)


def _write(folder: Path) -> None:
    rules = [f"{_STAGES[0]}:\n\techo {_STAGES[0]} > $@\n"]
    rules += [f"{name}: {before}\n\techo {name} $< > $@\n" for before, name in itertools.pairwise(_STAGES)]
    (folder / "Makefile").write_text("\n".join(rules))
