"""The OpenAI proxy before a real Triton whose model makes tokens at a pace, beside Triton's own ensemble by gRPC."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.place import Place
from bench.rows import Row
from bench.timing import Command, Failed, once

__all__ = ["ask", "measure", "paced", "running", "stages"]

STREAMS = (1, 16, 64)
TOKENS = 200
FLOOR = 0.95
ADDED_MS = 5.0
FIRSTS = 200
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Up:
    """Ports of the two, and the proxy's process."""

    grpc: int
    proxy: int
    pid: int


def measure(place: Place) -> Iterator[Row]:
    """Client, proxy and Triton share the cores. Ways take turns, so that what else the machine does hits them alike."""
    repository, engine = stages(place)
    with running(place, engine, paced(place, repository, "10.0")) as up:
        for streams in STREAMS:
            yield from _rates(up, streams)
        yield from _firsts(up)
    with running(place, engine, paced(place, repository, "0.0")) as up:
        for streams in STREAMS:
            yield from _unpaced(up, streams)


def _rates(up: Up, streams: int) -> Iterator[Row]:
    pairs = [(ask(up, "ensemble", streams), ask(up, "proxy", streams)) for _ in range(3)]
    ensemble, proxy = (statistics.median(_rate(pair[turn]) for pair in pairs) for turn in (0, 1))
    what = f"{streams} streams, 10 ms a token"
    yield Row("serve", f"{what}: ensemble by gRPC", ensemble, "tokens/s", runs=3)
    yield Row("serve", f"{what}: proxy", proxy, "tokens/s", runs=3)
    yield Row("serve", f"{what}: proxy of ensemble", proxy / ensemble, "", runs=3, floor=FLOOR)


def _firsts(up: Up) -> Iterator[Row]:
    """One request after another: what waits for what else is not in it."""
    found: dict[str, list[float]] = {"ensemble": [], "tensorrt_llm": [], "proxy": []}
    for _ in range(4):
        for way in found:
            found[way] += ask(up, way, 1, tokens=2, requests=FIRSTS // 4)["first"]
    medians = {way: statistics.median(times) * 1000 for way, times in found.items()}
    for way, median in medians.items():
        yield Row("serve", f"time to first token, {way}", median, "ms", runs=FIRSTS)
    added = medians["proxy"] - medians["ensemble"]
    yield Row("serve", "time to first token that the proxy adds to the ensemble's", added, "ms", FIRSTS, limit=ADDED_MS)
    plain = medians["proxy"] - medians["tensorrt_llm"]
    yield Row("serve", "time to first token that the proxy adds to the model's", plain, "ms", FIRSTS, limit=ADDED_MS)


def _unpaced(up: Up, streams: int) -> Iterator[Row]:
    what = f"{streams} streams, unpaced"
    ensemble = _rate(ask(up, "ensemble", streams, tokens=500))
    before = _cpu(up.pid)
    found = ask(up, "proxy", streams, tokens=500)
    used = _cpu(up.pid) - before
    yield Row("serve", f"{what}: ensemble by gRPC", ensemble, "tokens/s")
    yield Row("serve", f"{what}: proxy", _rate(found), "tokens/s")
    yield Row("serve", f"{what}: proxy of ensemble", _rate(found) / ensemble, "")
    yield Row("serve", f"{what}: processor time of the proxy", used / found["tokens"] * 1e6, "µs/token")


def _rate(found: dict[str, Any]) -> float:
    return float(found["tokens"] / found["seconds"])


def ask(up: Up, way: str, streams: int, *, tokens: int = TOKENS, requests: int = 1) -> dict[str, Any]:
    """What a client says that asks through `way`, as ``bench.asking`` has it: each of `streams`, `requests` times."""
    port = up.proxy if way == "proxy" else up.grpc
    words = [sys.executable, "-m", "bench.asking", way, *map(str, (port, streams, tokens, requests))]
    found: dict[str, Any] = json.loads(once(Command(words)).stdout.splitlines()[-1])
    if found["tokens"] < streams * tokens * requests * 0.98:
        raise Failed(f"{way}: {found['tokens']} tokens of {streams * tokens * requests}")
    return found


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _environment(place: Place) -> dict[str, str]:
    """The store of the tests of serving, which brings Triton's wheels once."""
    store = place.repository / ".cache" / "tests" / "serve-store"
    store.parent.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "HERMETIC_STORE": str(store), "PYTHONPATH": str(place.repository)}


def stages(place: Place) -> tuple[Path, Path]:
    """Repository and engine of the tiny recipe."""
    found = []
    for stage in ("repository", "engine"):
        recipe = f"{place.repository}/recipes/tiny_serve.py#{stage}"
        command = Command([sys.executable, "-m", "hermetic", "realise", "--no-link", recipe], env=_environment(place))
        found.append(Path(once(command).stdout.strip().splitlines()[-1]))
    return found[0], found[1]


def paced(place: Place, repository: Path, pace_ms: str) -> Path:
    """A copy of the repository whose engine is paced."""
    copy = place.folder / f"paced-{pace_ms}"
    shutil.copytree(repository, copy, copy_function=shutil.copyfile)
    for parent, _, _ in os.walk(copy):
        os.chmod(parent, 0o755)
    model = (place.repository / "bench" / "paced_model.py").read_text("utf-8")
    text = model.replace("PACE_MS = 10.0", f"PACE_MS = {pace_ms}")
    (copy / "repository" / "tensorrt_llm" / "1" / "model.py").write_text(text, "utf-8")
    return copy


@contextlib.contextmanager
def running(place: Place, engine: Path, repository: Path) -> Iterator[Up]:
    """Triton with the repository, and the proxy before it."""
    http, grpc, metrics, port = _free(4)
    common = [str(engine), "--repository", str(repository), "--json"]
    ports = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    openai = ["--triton", f"127.0.0.1:{grpc}", "--port", str(port), "--model-id", "paced"]
    with _started(place, "triton", *common, *ports), _started(place, "openai", *common, *openai) as proxy:
        yield Up(grpc, port, proxy.pid)


@contextlib.contextmanager
def _started(place: Place, *words: str) -> Iterator[subprocess.Popen[str]]:
    log = place.folder / f"{words[0]}.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "hermetic", "serve", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": stream, "text": True}
        with subprocess.Popen(command, env=_environment(place), **pipes) as process:
            try:
                if not process.stdout.readline():  # type: ignore[union-attr]  # it is a pipe
                    raise Failed(f"serve {words[0]} did not start: {log.read_text()[-2000:]}")
                yield process
            finally:
                process.kill()


def _free(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
