"""A model from a Hub into the store, every byte hashed, beside the Hub's own client, which hashes nothing.

Both download the same files from the same stand-in on loopback, which has a process of its own and takes its share
of the same cores. Nothing is cached: each run has an empty store, or an empty Hugging Face cache.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, Sample, once

SHARDS, SHARD_MB = 4, 256
HUGE_GB = 10
FLOOR = 0.8
MEMORY_MB = 300
RUNS = 3

_PLAIN = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
"""


def measure(place: Place) -> Iterator[Row]:
    """Speed by files of half a gigabyte, memory by one of ten."""
    _repository(place, "shards", {f"part-{number}.bin": SHARD_MB << 20 for number in range(SHARDS)})
    with _served(place) as endpoint:
        ours, plain = _in_turn(place, endpoint)
    size = SHARDS * SHARD_MB / 1000 * 1.048576
    yield timed_row("fetch", f"hermetic realise, {size:.1f} GB verified and stored", ours)
    yield timed_row("fetch", "snapshot_download, the same files", plain)
    ratios = [there.seconds / here.seconds for here, there in zip(ours, plain, strict=True)]
    spread = (min(ratios), max(ratios))
    yield Row("fetch", "speed, of snapshot_download's", statistics.median(ratios), "x", RUNS, spread, floor=FLOOR)
    shutil.rmtree(place.below("hub"))
    yield from _huge(place)


def _in_turn(place: Place, endpoint: str) -> tuple[list[Sample], list[Sample]]:
    ours, plain = [], []
    _lock(place, endpoint, "shards")
    for turn in range(RUNS + 1):
        here = once(_realise(place, endpoint, "shards", f"store-{turn}"))
        _forget(place.folder / f"store-{turn}")
        there = once(_snapshot_download(place, endpoint, f"cache-{turn}"))
        _forget(place.folder / f"cache-{turn}")
        if turn:  # the first is to warm
            ours.append(here)
            plain.append(there)
    return ours, plain


def _huge(place: Place) -> Iterator[Row]:
    """A file of ten gigabytes, which is a hole on the server's disk: its content does not matter for memory."""
    if shutil.disk_usage(place.folder).free < (HUGE_GB + 2) << 30:
        yield Row("fetch", f"one file of {HUGE_GB} GB", None, "", note="the disk is too small for it")
        return
    _repository(place, "huge", {"model.bin": HUGE_GB * 10**9}, hole=True)
    with _served(place) as endpoint:
        _lock(place, endpoint, "huge")
        sample = once(_realise(place, endpoint, "huge", "store-huge"))
    _forget(place.folder / "store-huge")
    note = f"{HUGE_GB / sample.seconds:.2f} GB/s"
    yield Row("fetch", f"memory for one file of {HUGE_GB} GB", sample.peak_mb, "MB", limit=MEMORY_MB, note=note)


def _repository(place: Place, name: str, sizes: dict[str, int], *, hole: bool = False) -> None:
    folder = place.below(f"hub/models/bench/{name}/1")
    noise = random.Random(1).randbytes(1 << 20)
    for number, (file, size) in enumerate(sizes.items()):
        with open(folder / file, "wb") as stream:
            if hole:
                stream.truncate(size)
                continue
            stream.write(number.to_bytes(8, "little"))
            while stream.tell() < size:
                stream.write(noise[: size - stream.tell()])


@contextmanager
def _served(place: Place) -> Iterator[str]:
    command = [sys.executable, "-m", "hermetic.testing.hub", str(place.folder / "hub")]
    with subprocess.Popen(command, cwd=place.repository, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().partition("=")[2]
        finally:
            process.terminate()


def _recipe(place: Place, name: str) -> Path:
    recipe = place.below("cwd") / f"{name}.py"
    recipe.write_text(f'from hermetic import hub_snapshot\nweights = hub_snapshot("bench/{name}")\n', "utf-8")
    return recipe


def _variables(place: Place, endpoint: str) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(place.below("hf"))}


def _lock(place: Place, endpoint: str, name: str) -> None:
    recipe = _recipe(place, name)
    recipe.with_suffix(".lock.json").unlink(missing_ok=True)
    once(place.hermetic("lock", str(recipe), env=_variables(place, endpoint)))


def _realise(place: Place, endpoint: str, name: str, store: str) -> Command:
    target = f"{_recipe(place, name)}#weights"
    return place.hermetic("realise", target, "--no-link", store=store, env=_variables(place, endpoint))


def _snapshot_download(place: Place, endpoint: str, cache: str) -> Command:
    arguments = [sys.executable, "-c", _PLAIN, "bench/shards", str(place.folder / cache)]
    variables = _variables(place, endpoint) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return Command(arguments, cwd=place.below("cwd"), env=place.env() | variables)


def _forget(folder: Path) -> None:
    for parent, names, _ in os.walk(folder):
        for child in names:
            path = os.path.join(parent, child)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder)
