"""The flake: all of it evaluated, and a no-op build beside that of a flake with the same files and input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.peers import flake
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Sample, interleaved, once

_EVALUATION_MS = 1000
_ENGINES = 3


def measure(place: Place) -> Iterator[Row]:
    if not flake.available():
        yield Row("flake", "could not be measured", None, "", note="needs nix, bwrap, patchelf and busybox")
        return
    folders = flake.prepared(place)
    check = interleaved({"check": flake.check(place, folders["hermetic"])}, place.runs)["check"]
    yield timed_row("flake", "all outputs evaluated", check, unit="ms", limit=_EVALUATION_MS)
    builds = {
        f"no-op nix build, {kind}, {name}": flake.noop(place, folder, kind)
        for kind in ("git", "path")
        for name, folder in folders.items()
    }
    for command in builds.values():
        once(command)
    for name, samples in interleaved(builds, place.runs).items():
        yield timed_row("flake", name, samples, unit="ms")
    yield from _engines(place, folders["hermetic"])


def _engines(place: Place, folder: Path) -> Iterator[Row]:
    """The same stage under both drivers, each time a new one; what is left is in a store, and whole."""
    path = str(flake.recipe(place) / "engine.py")
    found: dict[str, list[Sample]] = {"hermetic realise": [], "nix build": []}
    for number in range(_ENGINES + 1):
        realise = place.hermetic("realise", path, "--no-link", "--set", f"number={number}")
        for name, command in zip(found, (realise, flake.engine(place, folder, number)), strict=True):
            sample = once(command)
            if number:  # the first brings the environment
                found[name].append(sample)
    for name, samples in found.items():
        yield timed_row("flake", f"a stage that writes 2 GiB, {name}", samples)
