"""The whole of ``hermetic serve``: the tiny engine behind a real Triton, and the API before it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import triton_kit
from openai import OpenAI
from triton_kit import Said, Tiny, environment

from hermetic.testing.ports import free_ports

MODEL = "tiny_serve"
QUESTION = [{"role": "user", "content": "What is a store path?"}]
ANSWER = (
    "A store path is an immutable folder that holds the result of one stage. "
    "Its name starts with the key, so the same inputs always lead to the same path."
)


@dataclass
class Api:
    """`ready` is what it said when it was; `said` is its stderr so far."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    said: Said = field(default_factory=Said)

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    def client(self, **more: Any) -> OpenAI:
        """The official one, which does not try again by itself."""
        given = {"base_url": f"http://127.0.0.1:{self.port}/v1", "api_key": "none", "max_retries": 0} | more
        return OpenAI(**given)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self.ask("GET", path)[2]))

    def chat(self, **body: Any) -> tuple[int, dict[str, Any]]:
        """Status and body of a chat completion."""
        said = {"model": MODEL, "messages": QUESTION, "temperature": 0} | body
        status, _, data = self.ask("POST", "/v1/chat/completions", json.dumps(said).encode())
        return status, json.loads(data)


@contextmanager
def running(way: tuple[str, ...], *options: str | Path, **variables: str) -> Iterator[Api]:
    """``hermetic serve`` and `way`, once it is ready; killed on the way out if it has not ended by then."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "hermetic", "serve", *way, "--port", str(port), "--json", *map(str, options)]
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
            yield Api(process, json.loads(line), said)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            reader.join()


def everything(*options: str | Path, **variables: str) -> Any:
    """``hermetic serve`` of the tiny engine: Triton too."""
    http_port, grpc, metrics = map(str, free_ports(3))
    ports = ("--http-port", http_port, "--grpc-port", grpc, "--metrics-port", metrics)
    return running((str(triton_kit.RECIPE),), *ports, *options, **variables)


@pytest.fixture(scope="session")
def api(tiny: Tiny) -> Iterator[Api]:
    with everything("--concurrent", "16") as found:
        yield found
