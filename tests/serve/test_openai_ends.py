"""How things end: clients that go, a Triton that dies, signals, deadlines, a full house."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import triton_kit
from openai_kit import ANSWER, MODEL, QUESTION, Api, everything, running
from triton_kit import Tiny, inside, none_is_left

from hermetic.testing.ports import free_ports

#: What the engine's model says of a request whose call was cancelled.
CANCELLED = "was cancelled with its call"
LONG = {"min_tokens": 1900, "max_tokens": 1900}


@contextmanager
def asking(api: Api, **more: Any) -> Iterator[socket.socket]:
    """A request that has been sent, to be read from, and closed on the way out without a word."""
    said = {"model": MODEL, "messages": QUESTION, "temperature": 0, "stream": True} | more
    body = json.dumps(said).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=120) as connection:
        connection.sendall(head.encode() + body)
        yield connection


def until(connection: socket.socket, mark: bytes) -> bytes:
    """What comes in until `mark` is in it; everything if it never is."""
    data = b""
    while mark not in data and (chunk := connection.recv(65536)):
        data += chunk
    return data


def metric(api: Api, start: str) -> float:
    lines = api.ask("GET", "/metrics")[2].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def test_a_client_that_goes_stops_the_work(api: Api) -> None:
    """All room is taken by requests whose clients go; another is let in because theirs has become free."""
    before = metric(api, "hermetic_proxy_requests_total")
    for _ in range(20):  # more than are computed at once
        with asking(api, **LONG) as connection:
            assert b"data: " in until(connection, b'"content":"A"')
    assert api.chat()[1]["choices"][0]["message"]["content"] == ANSWER
    gone = [f'hermetic_proxy_requests_total{{endpoint="chat.completions",model="{MODEL}",status="499"}}']
    assert metric(api, gone[0]) >= 16
    assert metric(api, "hermetic_proxy_requests_total") > before


@pytest.mark.slow
def test_a_thousand_disconnects_under_load(tiny: Tiny) -> None:
    """None is left in Triton, which could not end within the time it has if one were."""
    with everything("--concurrent", "16", "--queue", "2000", "--drain", "20", "--verbose") as api:

        def leave(number: int) -> None:
            with asking(api, **LONG) as connection:
                if number % 4:
                    until(connection, b'"content":"A"')

        def stay(_: int) -> str:
            return str(api.chat()[1]["choices"][0]["message"]["content"])

        with ThreadPoolExecutor(24) as pool:
            left = [pool.submit(leave, number) for number in range(1000)]
            stayed = [pool.submit(stay, number) for number in range(50)]
        broken = [one.exception() for one in (*left, *stayed) if one.exception() is not None]
        assert not broken, f"{broken[0]!r}, status {api.process.poll()}: {''.join(api.said)[-5000:]}"
        assert {one.result() for one in stayed} == {ANSWER}
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait() == 0
    said = "".join(api.said)
    assert "successfully unloaded 'tensorrt_llm'" in said
    assert CANCELLED not in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_triton_that_dies_and_comes_back(tiny: Tiny) -> None:
    """Every answer is right or an error in OpenAI's form; readiness says so, and nothing hangs."""
    with triton_kit.serving(triton_kit.RECIPE) as first:
        ports = [f"--{name}-port={first.ready[name]}" for name in ("http", "grpc", "metrics")]
        way = ("openai", str(triton_kit.RECIPE), "--triton", first.grpc)
        with running(way, "--concurrent", "8") as api:
            seen: list[tuple[int, str]] = []
            stop = threading.Event()

            def load() -> None:
                while not stop.is_set():
                    status, said = api.chat()
                    seen.append((status, said["error"]["code"] if "error" in said else "ok"))

            with ThreadPoolExecutor(8) as pool:
                loads = [pool.submit(load) for _ in range(4)]
                with asking(api, **LONG) as connection:
                    until(connection, b'"content":"A"')
                    first.process.kill()
                    rest = until(connection, b"[DONE]")
                assert b'{"error":' in rest
                assert b"[DONE]" not in rest
                assert api.ask("GET", "/health/ready")[0] == 503
                assert "Triton" in api.get("/health/ready")["reasons"][0]
                status, headers, _ = api.ask("POST", "/v1/chat/completions", chat())
                assert (status, headers["retry-after"]) == (503, "1")
                first.process.wait()
                with triton_kit.serving(triton_kit.RECIPE, ports=ports):
                    assert api.ask("GET", "/health/ready")[0] == 200
                    assert api.chat()[0] == 200
                    stop.set()
                    for one in loads:
                        one.result()
            assert {code for status, code in seen if status != 200} <= {"upstream_unavailable", "upstream_error"}
            assert (200, "ok") in seen


def chat(**more: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": QUESTION, "temperature": 0} | more).encode()


@pytest.mark.slow
def test_a_kill_leaves_nothing(tiny: Tiny) -> None:
    with everything() as api, asking(api, **LONG) as connection:
        until(connection, b'"content":"A"')
        assert len(inside(api.ready["http"])) >= 4
        api.process.kill()
        none_is_left(api.ready["http"])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", api.port))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["loading: tensorrt_llm", "Started Metrics Service"])
def test_a_kill_while_it_starts_leaves_nothing(tiny: Tiny, moment: str) -> None:
    http, grpc, metrics, port = map(str, free_ports(4))
    ports = ("--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--port", port)
    command = [sys.executable, "-m", "hermetic", "serve", str(triton_kit.RECIPE), "--verbose", *ports]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=triton_kit.environment(), **pipes) as process:
        assert any(moment in line for line in process.stderr)  # type: ignore[union-attr]  # it is a pipe
        assert inside(int(http))
        process.kill()
        none_is_left(int(http))


@pytest.mark.slow
def test_a_port_in_use(api: Api, tiny: Tiny) -> None:
    """Said before Triton is started."""
    done = triton_kit.hermetic("serve", triton_kit.RECIPE, "--port", str(api.port))
    assert done.returncode == 8
    assert f"error[busy/port-in-use]: port {api.port} (API) of 127.0.0.1 is taken by" in done.stderr
    assert "another --port" in done.stderr


@pytest.mark.slow
def test_answers_that_run_come_to_their_end(tiny: Tiny) -> None:
    with everything("--verbose") as api, asking(api, min_tokens=400, max_tokens=400) as connection:
        until(connection, b'"content":"A"')
        api.process.send_signal(signal.SIGTERM)
        rest = until(connection, b"[DONE]")
        assert rest.count(b'"content"') > 300
        assert b'"finish_reason":"length"' in rest
        assert api.process.wait() == 0
    assert CANCELLED not in "".join(api.said)


@pytest.mark.slow
def test_answers_that_do_not_come_to_their_end_are_stopped(tiny: Tiny) -> None:
    with everything("--drain", "1", "--verbose") as api, asking(api, **LONG) as connection:
        until(connection, b'"content":"A"')
        api.process.send_signal(signal.SIGTERM)
        until(connection, b"[DONE]")
        assert api.process.wait() == 0
    assert CANCELLED not in "".join(api.said)


@pytest.mark.slow
def test_a_deadline(tiny: Tiny) -> None:
    with everything("--concurrent", "1", "--deadline", "1", "--verbose") as api:
        with asking(api, **LONG) as connection:
            assert b'"code": "timeout"' in until(connection, b"[DONE]")
        assert api.chat(n=2)[1]["error"]["code"] == "too_many_answers"
        status, said = api.chat(**LONG)
        assert (status, said["error"]["code"]) == (504, "timeout")
        assert metric(api, "hermetic_proxy_running_answers") == 0
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait() == 0
    assert CANCELLED not in "".join(api.said)
