"""Everything in place: `realise` must answer no slower than a no-op ``nix build`` of a flake."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench.peers import make, nix
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, interleaved, once

OURS = "hermetic realise"
PEER = "nix build, path flake"


def measure(place: Place) -> Iterator[Row]:
    realise = place.hermetic("realise", place.recipe)
    once(realise)
    commands = {OURS: realise, "make": make.noop(place), "python, nothing imported": interpreter(place)}
    if nix.available():
        commands |= {PEER: nix.noop(place, "path"), "nix build, git flake": nix.noop(place, "git")}
    samples = interleaved(commands, place.runs)
    rows = {name: timed_row("noop", name, taken, unit="ms") for name, taken in samples.items()}
    limit = rows[PEER].value if PEER in rows else None
    yield timed_row("noop", OURS, samples[OURS], unit="ms", limit=limit, note="" if limit else "no nix here to compare")
    yield from (row for name, row in rows.items() if name != OURS)


def interpreter(place: Place) -> Command:
    """The floor for anything in Python."""
    return Command([sys.executable, "-c", "pass"], env=place.env())
