"""Planning many stages, the first time and from the evaluation cache, beside ``nix-instantiate`` cold and warm."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.peers import nix, store
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, Sample, once

COUNTS = (1_000, 10_000, 100_000)
MIDDLE = 10_000
RUNS = 3
AGAIN = 10
LINEAR = 1.5  # how much dearer a stage may be among ten times as many

_RECIPE = """\
from hermetic import PythonEnv, Script, param
environment = PythonEnv("empty.lock")
stages = []
for number in range(param("count", 10)):
    inputs = {"before": stages[-1]} if param("chain", False) and stages else {}
    stages.append(Script("stage.py", name=f"s{number}", environment=environment, inputs=inputs,
                         parameters={"n": number}))
default = Script("stage.py", name="all", environment=environment,
                 inputs={"last": stages[-1]} if param("chain", False) else {f"i{n}": s for n, s in enumerate(stages)})
"""


def measure(place: Place) -> Iterator[Row]:
    """In turn. One stage more than its number needs all others, or the last one of a chain."""
    _write(place)
    cold: list[Sample] = []
    first: list[Sample] = []
    for _ in range(RUNS):
        if nix.available():
            cold.append(_anew(place, store.instantiate(place, MIDDLE)))
        first.append(_first(place, MIDDLE))
    again: list[Sample] = []
    warm: list[Sample] = []
    for _ in range(AGAIN):
        again.append(_again(place, MIDDLE))
        if nix.available():
            warm.append(once(store.instantiate(place, MIDDLE)))
    yield from _beside(f"hermetic plan, {MIDDLE:,} stages, first", first, "nix-instantiate, empty store", cold)
    yield from _beside(f"hermetic plan, {MIDDLE:,} stages, again", again, "nix-instantiate, again", warm)
    yield from _beside(
        f"hermetic plan, a chain of {MIDDLE:,}, first",
        [_first(place, MIDDLE, chain=True)],
        "nix-instantiate, a chain, empty store",
        [_anew(place, store.instantiate(place, MIDDLE, chain=True))] if nix.available() else [],
    )
    yield from _sizes(place, first, again)


def _beside(what: str, ours: list[Sample], peer: str, theirs: list[Sample]) -> Iterator[Row]:
    limit = statistics.median(sample.seconds for sample in theirs) if theirs else None
    yield timed_row("plan", what, ours, limit=limit, note="" if theirs else "no nix here to compare")
    if theirs:
        yield timed_row("plan", peer, theirs)


def _sizes(place: Place, first: list[Sample], again: list[Sample]) -> Iterator[Row]:
    median = {MIDDLE: (_median(first), _median(again))}
    for count in COUNTS:
        if count != MIDDLE:
            sample = _first(place, count)
            repeated = [_again(place, count) for _ in range(RUNS)]
            yield timed_row("plan", f"hermetic plan, {count:,} stages, first", [sample])
            yield timed_row("plan", f"hermetic plan, {count:,} stages, again", repeated)
            median[count] = (sample.seconds, _median(repeated))
    for which, when in enumerate(("first", "again")):
        slope = median[COUNTS[-1]][which] / median[MIDDLE][which] / (COUNTS[-1] / MIDDLE)
        what = f"cost of a stage, {COUNTS[-1]:,} beside {MIDDLE:,}, {when}"
        yield Row("plan", what, slope, "x", limit=LINEAR)


def _median(samples: list[Sample]) -> float:
    return statistics.median(sample.seconds for sample in samples)


def _write(place: Place) -> None:
    folder = place.below("recipes")
    (folder / "recipe.py").write_text(_RECIPE, "utf-8")
    (folder / "stage.py").write_text("", "utf-8")
    (folder / "empty.lock").touch()
    once(_plan(place, 10))  # what the interpreter is made of is hashed once a machine, not once a plan


def _plan(place: Place, count: int, *, chain: bool = False) -> Command:
    command = place.hermetic("plan", "recipe.py", "--set", f"count={count}", "--set", f"chain={str(chain).lower()}")
    return dataclasses.replace(command, cwd=place.folder / "recipes")


def _first(place: Place, count: int, *, chain: bool = False) -> Sample:
    shutil.rmtree(place.folder / "home" / "cache" / "hermetic" / "evaluations", ignore_errors=True)
    return _checked(once(_plan(place, count, chain=chain)), count)


def _again(place: Place, count: int) -> Sample:
    return _checked(once(_plan(place, count)), count)


def _checked(sample: Sample, count: int) -> Sample:
    if f"{count + 1} of {count + 1} stages to build" not in sample.stdout:
        raise ValueError(f"expected a plan of {count + 1} stages: {sample.stdout[-500:]}")
    return dataclasses.replace(sample, stdout="")


def _anew(place: Place, command: Command) -> Sample:
    path: Path = place.folder / "nix"
    shutil.rmtree(path, ignore_errors=True)
    return once(command)
