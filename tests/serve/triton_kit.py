"""A real Triton for tests: the tiny engine in a store that stays between sessions, and the command that serves it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from hermetic.testing.ports import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "recipes" / "tiny_serve.py"
#: Wheels of 300 MB are brought into it once.
STORE = REPOSITORY / ".cache" / "tests" / "serve-store"


@dataclass(frozen=True)
class Tiny:
    """Store paths of the tiny engine, its manifest and its repository."""

    engine: Path
    manifest: Path
    repository: Path


def environment(**more: str) -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(REPOSITORY), "HERMETIC_STORE": str(STORE)} | more


def hermetic(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hermetic", *map(str, arguments)]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    STORE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{STORE}.lock"):
        paths = []
        for stage in ("engine", "manifest", "repository"):
            made = hermetic("realise", "--no-link", f"{RECIPE}#{stage}")
            assert made.returncode == 0, made.stderr
            paths.append(Path(made.stdout.strip()))
    return Tiny(*paths)


class Said(list[str]):
    """Lines of a process, as they come; `wait_for` one without looking again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._more = threading.Condition()
        self._ended = False

    def extend(self, lines: Iterable[str]) -> None:
        """Until there are no more."""
        for line in lines:
            with self._more:
                self.append(line)
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def wait_for(self, *words: str) -> str:
        """The first line that has all of `words`."""
        with self._more:
            while True:
                for line in self:
                    if all(word in line for word in words):
                        return line
                assert not self._ended, f"{words} were not said: {''.join(self)}"
                assert self._more.wait(120), f"{words} were not said in time: {''.join(self)}"


@dataclass
class Server:
    """``hermetic serve triton`` in a process of its own. `said` is its stderr so far."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    said: Said = field(default_factory=Said)

    @property
    def grpc(self) -> str:
        return f"{self.ready['host']}:{self.ready['grpc']}"

    def url(self, path: str) -> str:
        return f"http://{self.ready['host']}:{self.ready['http']}{path}"


@contextmanager
def starting(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server from its first moment on, and its HTTP port; what it says is on its stderr, unread."""
    http, grpc, metrics = map(str, free_ports(3))
    ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics)
    command = [sys.executable, "-m", "hermetic", "serve", "triton", *map(str, arguments), *ports]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as process:
        try:
            yield process, int(http)
        finally:
            process.kill()
            process.stderr.read()  # type: ignore[union-attr]  # it is a pipe


@contextmanager
def serving(*arguments: str | Path, ports: list[str] | None = None, **variables: str) -> Iterator[Server]:
    """The server once it is ready; killed on the way out if it has not ended by then."""
    if ports is None:
        ports = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)]
    command = [sys.executable, "-m", "hermetic", "serve", "triton", *map(str, arguments), *ports, "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(**variables), **pipes) as process:
        said = Said()
        reader = threading.Thread(target=said.extend, args=(process.stderr,))
        reader.start()
        try:
            line = process.stdout.readline()  # type: ignore[union-attr]  # it is a pipe
            if not line:
                process.wait()
                reader.join()
                pytest.fail(f"not ready: {''.join(said)}")
            yield Server(process, json.loads(line), said)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            reader.join()


def inside(port: int) -> set[int]:
    """The processes with this port on their command line, and all below them."""
    known = pids()
    mine = {pid for pid in known if f"--http-port={port}".encode() in read(pid, "cmdline")}
    while more := {pid for pid in known - mine if parent(pid) in mine}:
        mine |= more
    return mine


def none_is_left(port: int) -> None:
    """Wait for whatever is there; one may have been forked while the others were looked for."""
    while found := inside(port):
        for pid in found:
            with suppress(ProcessLookupError):  # it has gone meanwhile
                descriptor = os.pidfd_open(pid)
                assert select.select([descriptor], [], [], 60)[0], "it lives on"
                os.close(descriptor)


def read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
