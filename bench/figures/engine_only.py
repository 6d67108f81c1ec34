"""Only the engine stage changed: what it costs to have the new engine, checked, when everything before it is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.peers import make, nix
from bench.place import RECIPE, Place
from bench.rows import Row, timed_row
from bench.timing import Command, Sample, once

LIMIT_S = 10.0
RUNS = 3
LENGTH = '"max_new_tokens": 128'


def measure(place: Place) -> Iterator[Row]:
    """The peers change the last of five stages that only write a line: what they show is the driver's own cost."""
    once(place.hermetic("realise", place.recipe))
    samples = [once(changed(place, number)) for number in range(RUNS)]
    yield timed_row("engine_only", "hermetic realise, engine, manifest and smoke anew", samples, limit=LIMIT_S)
    yield timed_row("engine_only", "make, last target", again(make.leaf_changed(place)), unit="ms")
    if nix.available():
        once(nix.leaf_changed(place, 0))
        nixed = [once(nix.leaf_changed(place, number + 1)) for number in range(RUNS)]
        yield timed_row("engine_only", "nix build, last derivation", nixed, unit="ms")


def changed(place: Place, number: int) -> Command:
    """A copy of the recipe whose engine stops after another number of tokens."""
    recipe = place.below("recipes") / Path(RECIPE).name
    source = place.repository / RECIPE
    shutil.copytree(source.with_suffix(""), recipe.with_suffix(""), dirs_exist_ok=True)
    text = source.read_text("utf-8")
    if text.count(LENGTH) != 1:
        raise ValueError(f"{RECIPE} does not have {LENGTH} once, which this bench changes")
    recipe.write_text(text.replace(LENGTH, f'"max_new_tokens": {129 + number}'), "utf-8")
    return place.hermetic("realise", str(recipe))


def again(command: Command) -> list[Sample]:
    once(command)
    return [once(command) for _ in range(RUNS)]
