"""What is understood of a Triton that starts, without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hermetic.cli.serve_switch import insist_on_room
from hermetic.errors import Domain, HermeticError
from hermetic.serve.launch_command import Settings
from hermetic.serve.launch_place import Brought, waiting
from hermetic.serve.launch_ports import insist_on_apart
from hermetic.serve.launch_watch import Talk, Watch, limit_of, log_path, until_ready

LOADS = b"""I1121 19:06:41.604574 3 model_lifecycle.cc:472] "loading: preprocessing:1"
I1121 19:06:41.607312 3 model_lifecycle.cc:472] "loading: tensorrt_llm:1"
I1121 19:06:42.074221 3 model_lifecycle.cc:839] "successfully loaded 'preprocessing'"
+-------+
| Model |
"""
READY = b'I1121 19:06:00.766116 3 http_server.cc:362] "Started Metrics Service at 127.0.0.1:8002"\n'
FAILED = b"""E1121 19:06:42.1 3 m.cc:642] "failed to load 'tensorrt_llm' version 1: Internal: no\\nAt:\\n  m.py"\n"""


def watching(
    *chunks: bytes,
    limit_s: int = 60,
    log: str = "",
    clock: Callable[[], float] = time.monotonic,
    told: list[str] | None = None,
) -> tuple[Watch, list[str]]:
    """After `chunks`, of a Triton that goes on; with a `clock` nobody waits."""
    told = [] if told is None else told
    every_s = 10.0 if clock is time.monotonic else 0.0

    async def watched() -> Watch:
        talk = Talk(told.append, log=log)
        watch = Watch(talk)
        for chunk in chunks:
            watch.heard(chunk)
        try:
            ended = asyncio.get_running_loop().create_future()
            await until_ready(watch, ended, limit_s, talk, clock=clock, every_s=every_s)
        finally:
            watch.close()
        return watch

    return asyncio.run(watched()), told


def test_ready_in_pieces() -> None:
    watch, told = watching(LOADS, READY[:60], READY[60:])
    assert watch.ready.done()
    assert watch.last == "Started Metrics Service at 127.0.0.1:8002"
    assert told == []


def test_a_model_that_fails_ends_it_at_once() -> None:
    with pytest.raises(HermeticError) as caught:
        watching(LOADS, FAILED, limit_s=0)
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "model-failed")
    assert caught.value.message == "Triton cannot load the model 'tensorrt_llm': Internal: no"
    assert caught.value.data["log_tail"] == ["At:", "  m.py"]


def test_what_it_waits_for_is_told_until_its_time_is_over() -> None:
    with pytest.raises(HermeticError, match="within 20 s: it waited for tensorrt_llm to be loaded") as caught:
        watching(LOADS, limit_s=20, clock=iter([0.0, 10.0, 20.0]).__next__, told=(told := []))
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "start-timeout")
    assert told == [
        "10 s: waiting for tensorrt_llm to be loaded; Triton said last: successfully loaded 'preprocessing'"
    ]


def test_without_a_limit_it_is_told_for_ever() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        watching(limit_s=0, clock=iter([0.0, 1e9]).__next__, told=(told := []))
    assert told == ["1000000000 s: waiting for Triton to answer; Triton said last: nothing"]


def test_the_limit_grows_with_the_engine() -> None:
    files = {"rank0.engine": {"size": 70_000_000_000}, "config.json": {"size": 1000}}
    assert limit_of(Settings(), files) == 600 + 1400
    assert limit_of(Settings(start_s=0), files) == 0


def test_the_log_has_all_of_it_and_the_one_before(tmp_path: Path) -> None:
    path = log_path(str(tmp_path), "serve.py#repository", "8000")
    assert path == f"{tmp_path}/serve/serve.py-repository-8000.log"
    for _ in range(2):
        watching(LOADS, READY, log=path)
    for name in (path, f"{path}.1"):
        assert Path(name).read_bytes() == LOADS + READY


def test_a_log_that_can_not_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, told = watching(LOADS, READY, log=f"{tmp_path}/file/log")
    assert [line.startswith(f"the log {tmp_path}/file/log is not written any more") for line in told] == [True]


def test_errors_are_told_once_it_serves() -> None:
    _, told = watching(READY + b'E1121 19:06:42.1 3 m.cc:1] "no memory"\nI1121 19:06:42.1 3 m.cc:1] "yes"\n')
    assert told == ["Triton: no memory"]


def test_what_comes_is_told_now_and_then() -> None:
    told: list[str] = []
    brought = Brought(told.append, iter([0.0, 0.0, 5.0, 10.0, 10.0]).__next__)
    for done in (1, 2, 3):
        brought("image", done * 1_000_000, 4_000_000)
    assert told == ["bringing image: 1 of 4 MB", "bringing image: 3 of 4 MB"]


def test_one_port_for_two_servers_is_said_before_anything_is_loaded() -> None:
    """Ports of 0 are free ones to the kernel, and one port to us."""
    insist_on_apart(("127.0.0.1", {"API": 0}), ("127.0.0.2", {"http": 0}))
    for host in ("127.0.0.1", "0.0.0.0"):  # nobody listens
        with pytest.raises(HermeticError, match="is given twice") as caught:
            insist_on_apart(("127.0.0.1", {"API": 0}), (host, {"http": 0}))
        assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "ports-equal")


def test_where_clients_connect() -> None:
    assert (Settings().grpc, Settings("::1").grpc) == ("127.0.0.1:8001", "[::1]:8001")


def test_a_second_engine_needs_room(tmp_path: Path) -> None:
    """GPUs that are nobody's, and memory that is free."""
    waits = waiting("engine 'e'", Settings(may_wait=False), lambda _: None)
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\nHugePages_Total: 0\n")
    insist_on_room({"a": {"size": 512_000}}, str(tmp_path / "meminfo"))
    for refused in (
        lambda: waits("1 x NVIDIA H200; 1 here, in use by other stages"),
        lambda: insist_on_room({"a": {"size": 512_000}, "b": {"size": 1}}, str(tmp_path / "meminfo")),
    ):
        with pytest.raises(HermeticError) as caught:
            refused()
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "no-room")
