"""A 4 GiB artefact that a stage left in its workspace: entering the store, hashing, verifying, memory."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import inside
from bench.peers import nix, store
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Sample, once

SIZE = 4 << 30
RUNS = 3
ENTER_FLOOR = 3.0  # GB/s
ADD_FLOOR = 15.0  # times nix store add-path
STAGE_FLOOR = 3.0  # times a Nix stage with the same output
MEMORY_LIMIT = 150.0  # MB, anonymous
HASH_FLOOR = 0.9  # of bare blake3
VERIFY_FLOOR = 2.0  # times nix-store --verify-path

# Pieces of noise, each begun with its number: no two alike, and nothing that a file system could leave out.
_WRITE = """
def write(path, size, synced):
    piece = bytearray(os.urandom(1 << 24))
    with open(path, "wb", buffering=0) as stream:
        for number in range(size >> 24):
            piece[:8] = number.to_bytes(8, "little")
            stream.write(piece)
        if synced:
            os.fsync(stream.fileno())
"""
_ENTER = (
    """
import json, os, sys, time
from hermetic.digest import Key, hash_bytes
from hermetic.store import Store
"""
    + _WRITE
    + """
anon = 0
def watch(done, total):
    global anon
    if done % (1 << 26) == 0 or done == total:
        with open("/proc/self/status") as lines:
            anon = max(anon, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")))
number, size, synced = (int(word) for word in sys.argv[2:])
with Store.open(sys.argv[1]).begin() as run:
    out = run.workspace().path / "out"
    out.mkdir()
    write(out / "rank0.engine", size, synced)
    key = Key(hash_bytes(b"%d" % number).hex)
    start = time.perf_counter()
    made = run.ingest(out, key=key, name="engine", preimage={"n": number}, resolved=None, progress=watch)
    seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "anon_mb": anon / 1024, "key": key.hex}))
"""
)
_HASH = """
import json, os, sys, time
from blake3 import blake3
from hermetic.store.hashing import NO_NEEDLES, Needles, hash_and_scan
from hermetic.store.ingest import store_names
def bare(descriptor):
    hasher, buffer = blake3(), bytearray(1 << 20)
    view = memoryview(buffer)
    while count := os.readv(descriptor, [buffer]):
        hasher.update(view[:count])
    return hasher.hexdigest()
def ours(descriptor):
    return hash_and_scan(descriptor, size, NO_NEEDLES).digest.hex
def scanned(descriptor):
    return hash_and_scan(descriptor, size, needles, idle_core=True).digest.hex
needles = Needles(store_names(sys.argv[2]))
size = os.stat(sys.argv[1]).st_size
times = {"bare": [], "ours": [], "scanned": []}
for turn in range(int(sys.argv[3]) + 1):
    digests = set()
    for work in (bare, ours, scanned):
        descriptor = os.open(sys.argv[1], os.O_RDONLY)
        start = time.perf_counter()
        digests.add(work(descriptor))
        if turn:
            times[work.__name__].append(time.perf_counter() - start)
        os.close(descriptor)
    assert len(digests) == 1
print(json.dumps(times))
"""


def measure(place: Place) -> Iterator[Row]:
    """Ours and Nix's in turn, each from a file in the page cache; what was written is taken away between."""
    synced, fresh, added, staged = [], [], [], []
    source = _source(place)
    fresh.append(_enter(place, RUNS, synced=False))
    _collected(place)
    for turn in range(RUNS):
        last = turn == RUNS - 1  # whose results are verified
        synced.append(_enter(place, turn, synced=True))
        if nix.available():
            staged.append(_then_deleted(place, once(store.stage_copying(place, source, turn))))
        if nix.available() and (not turn or last):
            added.append(once(store.add(place, source)))
        if not last:
            _collected(place)
            if not turn and added:
                _then_deleted(place, added[0])
    yield from _entering(synced, fresh, added, staged)
    yield from _hashing(place, source)
    yield from _verifying(place, str(synced[-1]["key"]), added[-1].stdout.split()[-1] if added else "")


def _source(place: Place) -> Path:
    path = place.folder / "engine"
    place.folder.chmod(0o755)  # Nix's builders are other users
    inside.run(place, "import os, sys" + _WRITE + "write(sys.argv[1], int(sys.argv[2]), True); print('{}')",
               str(path), str(SIZE))  # fmt: skip
    return path


def _enter(place: Place, number: int, *, synced: bool) -> dict[str, Any]:
    return inside.run(place, _ENTER, str(place.folder / "store"), str(number), str(SIZE), str(int(synced)))


def _collected(place: Place) -> None:
    os.sync()
    once(place.hermetic("gc"))
    os.sync()


def _then_deleted(place: Place, sample: Sample) -> Sample:
    once(store.delete(place, sample.stdout.split()[-1]))
    os.sync()
    return sample


def _rate(seconds: float) -> float:
    return SIZE / 1e9 / seconds


def _rates(what: str, seconds: list[float], **more: object) -> Row:
    rates = [_rate(each) for each in seconds]
    spread = (min(rates), max(rates))
    return Row("artefact", what, statistics.median(rates), "GB/s", runs=len(rates), spread=spread, **more)  # type: ignore[arg-type]


def _entering(
    synced: list[dict[str, Any]], fresh: list[dict[str, Any]], added: list[Sample], staged: list[Sample]
) -> Iterator[Row]:
    seconds = [each["seconds"] for each in synced]
    yield _rates("4 GiB enters the store, synced before", seconds, floor=ENTER_FLOOR)
    yield _rates("4 GiB enters the store, just written", [each["seconds"] for each in fresh])
    anon = max(each["anon_mb"] for each in synced + fresh)
    yield Row("artefact", "anonymous memory while it enters", anon, "MB", runs=len(synced + fresh), limit=MEMORY_LIMIT)
    ours = statistics.median(seconds)
    for what, samples, floor in (
        ("nix store add-path", added, ADD_FLOOR),
        ("a Nix stage that copies it to its output", staged, STAGE_FLOOR),
    ):
        if samples:
            yield _rates(what, [sample.seconds for sample in samples], peak_mb=max(s.peak_mb for s in samples))
            times = statistics.median(sample.seconds for sample in samples) / ours
            yield Row("artefact", f"entering, times {what}", times, "x", floor=floor)


def _hashing(place: Place, source: Path) -> Iterator[Row]:
    times = inside.run(place, _HASH, str(source), str(place.folder / "store"), str(RUNS))
    yield _rates("bare blake3, reads of 1 MiB", times["bare"])
    for what, name in (("hashing", "ours"), ("hashing with the search for store paths", "scanned")):
        yield _rates(what, times[name])
        share = statistics.median(times["bare"]) / statistics.median(times[name])
        yield Row("artefact", f"{what}, of bare blake3", share, "x", runs=RUNS, floor=HASH_FLOOR)


def _verifying(place: Place, key: str, theirs: str) -> Iterator[Row]:
    ours, peer = [], []
    for _ in range(RUNS):
        ours.append(once(place.hermetic("verify", key)))
        if theirs:
            peer.append(once(store.verify(place, theirs)))
    yield timed_row("artefact", "hermetic verify of it", ours)
    if peer:
        yield timed_row("artefact", "nix-store --verify-path", peer)
        times = statistics.median(s.seconds for s in peer) / statistics.median(s.seconds for s in ours)
        yield Row("artefact", "verify, times nix-store --verify-path", times, "x", runs=RUNS, floor=VERIFY_FLOOR)
