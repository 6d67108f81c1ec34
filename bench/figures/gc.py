"""Collecting 20,000 dead paths of one small file each, beside ``nix-collect-garbage``, and whether it is linear."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from bench.peers import nix
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, Sample, once

PATHS = 20_000
RUNS = 4
LINEAR = 1.5  # how much dearer a path may be among four times as many

_FILL = """
import sys
from hermetic.digest import Key, hash_bytes
from hermetic.store import Store
store = Store.open(sys.argv[1])
with store.begin() as run:
    for number in range(int(sys.argv[2])):
        out = run.workspace().path / "out"
        out.mkdir()
        (out / "file").write_bytes(b"%d" % number)
        run.ingest(out, key=Key(hash_bytes(b"%d" % number).hex), name="path", preimage={"n": number}, resolved=None)
"""


def measure(place: Place) -> Iterator[Row]:
    """In turn, and the peer first every other time: a slow spell of the disk, or the blocks that the one before freed,
    must not meet only one of them. Measured one after the other the peer seemed three times slower than it is.
    """
    few: list[Sample] = []
    many: list[Sample] = []
    peer: list[Sample] = []
    for turn in range(RUNS):
        if turn % 2 and nix.available():
            peer.append(collected_by_nix(place, PATHS))
        many.append(collected(place, PATHS))
        few.append(collected(place, PATHS // 4))
        if not turn % 2 and nix.available():
            peer.append(collected_by_nix(place, PATHS))
    theirs = timed_row("gc", f"nix-collect-garbage, {PATHS:,} dead paths", peer) if peer else None
    limit, note = (theirs.value, "") if theirs else (None, "no nix here to compare")
    yield timed_row("gc", f"hermetic gc, {PATHS:,} dead paths", many, limit=limit, note=note)
    if theirs:
        yield theirs
    slope = median(many) / median(few) / 4
    yield Row("gc", f"cost of a path, {PATHS:,} beside {PATHS // 4:,}", slope, "x", runs=RUNS, limit=LINEAR)


def median(samples: list[Sample]) -> float:
    return statistics.median(sample.seconds for sample in samples)


def collected(place: Place, count: int) -> Sample:
    """One collection of a store of `count` paths that nothing keeps, all of it on the disk."""
    subprocess.run(
        [sys.executable, "-c", _FILL, str(place.folder / "store"), str(count)],
        env=os.environ | {"PYTHONPATH": str(place.repository)},
        check=True,
    )
    os.sync()
    sample = once(place.hermetic("gc"))
    if sample.stdout.count("\n") != count + 1:
        raise ValueError(f"expected {count} paths to go: {sample.stdout[-500:]}")
    return sample


def collected_by_nix(place: Place, count: int) -> Sample:
    """The same of a Nix store, its paths too being folders of one file."""
    folder = place.below("files")
    files = [str(folder / f"path-{number}") for number in range(count)]
    for number, file in enumerate(files):
        os.makedirs(file, exist_ok=True)
        with open(f"{file}/file", "w", encoding="ascii") as stream:
            stream.write(str(number))
    options = ["--store", str(place.folder / "nix")]
    env = place.env() | {"NIX_REMOTE": ""}
    for first in range(0, count, 5000):  # the kernel limits a command line
        once(Command(["nix-store", *options, "--add", *files[first : first + 5000]], env=env))
    os.sync()
    return once(Command(["nix-collect-garbage", *options], env=env))
