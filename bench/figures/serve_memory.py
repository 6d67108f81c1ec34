"""The memory of the OpenAI proxy over 100,000 requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.figures.serve import ask, paced, running, stages
from bench.place import Place
from bench.rows import Row

STREAMS, TOKENS = 50, 2
# Requests. What the first half brings in, such as buffers of as many connections, is no growth.
STEPS = (10_000, 50_000, 100_000)
GROWTH_MB = 5.0


def measure(place: Place) -> Iterator[Row]:
    repository, engine = stages(place)
    asked, seconds, resident = 0, 0.0, {}
    with running(place, engine, paced(place, repository, "0.0")) as server:
        resident[0] = _resident_mb(server.pid)
        for step in STEPS:
            seconds += ask(server, "proxy", STREAMS, tokens=TOKENS, requests=(step - asked) // STREAMS)["seconds"]
            asked, resident[step] = step, _resident_mb(server.pid)
    for step, megabytes in resident.items():
        yield Row("serve_memory", f"the proxy after {step:,} requests", megabytes, "MB", runs=step)
    half, last = STEPS[-2:]
    grown = resident[last] - resident[half]
    yield Row("serve_memory", f"from {half:,} to {last:,}", grown, "MB", runs=last - half, limit=GROWTH_MB)
    yield Row("serve_memory", "requests a second meanwhile", asked / seconds, "1/s", runs=asked)


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    (resident,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(resident) / 1024
