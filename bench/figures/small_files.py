"""A folder of 20,000 files of 4 KiB entering the store, beside ``nix store add-path`` of an equal one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bench import inside
from bench.peers import nix, store
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Sample, once

FILES = 20_000
RUNS = 3

_WRITE = """
def write(folder, count, turn):
    for number in range(count):
        if number % 200 == 0:
            inside = os.path.join(folder, f"folder-{number // 200}")
            os.makedirs(inside)
        with open(os.path.join(inside, f"file-{number}"), "wb") as stream:
            stream.write(os.urandom(4096))
    os.sync()
"""
_ENTER = (
    """
import json, os, sys, time
from hermetic.digest import Key, hash_bytes
from hermetic.store import Store
"""
    + _WRITE
    + """
turn, count = int(sys.argv[2]), int(sys.argv[3])
with Store.open(sys.argv[1]).begin() as run:
    out = run.workspace().path / "out"
    write(out, count, turn)
    start = time.perf_counter()
    run.ingest(out, key=Key(hash_bytes(b"%d" % turn).hex), name="files", preimage={"n": turn}, resolved=None)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
durable = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "durable": durable}))
"""
)


def measure(place: Place) -> Iterator[Row]:
    """Every file is new to both stores, and synced before. Nix's time is that of the whole command."""
    ours: list[Sample] = []
    durable: list[Sample] = []
    peer: list[Sample] = []
    for turn in range(RUNS):
        found = inside.run(place, _ENTER, str(place.folder / "store"), str(turn), str(FILES))
        ours.append(Sample(found["seconds"], 0))
        durable.append(Sample(found["seconds"] + found["durable"], 0))
        if nix.available():
            peer.append(once(store.add(place, _folder(place, turn))))
    theirs = timed_row("small_files", f"nix store add-path, {FILES:,} files", peer) if peer else None
    limit, note = (theirs.value, "") if theirs else (None, "no nix here to compare")
    yield timed_row("small_files", f"{FILES:,} files of 4 KiB enter", ours, limit=limit, note=note, peak_mb=None)
    yield timed_row("small_files", "the same, and on the disk", durable, peak_mb=None)
    if theirs:
        yield theirs


def _folder(place: Place, turn: int) -> Path:
    path = place.folder / f"files-{turn}"
    program = "import os, sys" + _WRITE + "write(sys.argv[1], int(sys.argv[2]), 0); print('{}')"
    inside.run(place, program, str(path), str(FILES))
    os.sync()
    return path
