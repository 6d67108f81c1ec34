"""Triton under a real podman: answers, an end that lets requests come to theirs, and a kill that leaves nothing."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from test_triton_places import Made, generate, image, made, wheels, words
from test_triton_real import ANSWER, PROMPT, Stream, tokens
from triton_kit import Tiny, none_is_left, serving

from hermetic.errors import HermeticError
from hermetic.sandbox import podman
from hermetic.testing.trtllm.image import StandinImage

pytestmark = pytest.mark.slow
__all__ = ["image", "made", "wheels"]

#: docs/images.md: for machines without cgroup v2.
CONF = """\
[containers]
log_driver = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman with settings that this machine takes; no container of ours is left afterwards."""
    (tmp_path / "containers.conf").write_text(CONF)
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    try:
        tried = subprocess.run([podman.available(), "info"], capture_output=True, text=True, check=False)
    except HermeticError as error:
        pytest.skip(error.message)
    if tried.returncode:
        pytest.skip(f"podman does not work here: {tried.stderr[-200:]}")


def containers(pid: int) -> list[str]:
    """Of the driver that was process `pid`."""
    listing = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    said = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in said if name.startswith(f"hermetic-{pid}-")]


def test_an_engine_of_the_lock(tiny: Tiny, engine: None) -> None:
    with serving(tiny.engine, "--runtime", "podman") as server, triton.InferenceServerClient(server.grpc) as client:
        assert generate(server, text_input=PROMPT, max_tokens=64)["text_output"] == ANSWER
        assert len(containers(server.process.pid)) == 1
        stream = Stream(client, [1, 2, 3], 300, min_tokens=("INT32", [300]))
        stream.next()
        server.process.send_signal(signal.SIGTERM)
        assert len(tokens(stream.all())) == 299
        client.stop_stream()
        assert server.process.wait() == 0
    none_is_left(server.ready["http"])
    assert containers(server.process.pid) == []


def test_an_image_of_two_ranks_that_is_killed(image: StandinImage, made: Made, engine: None) -> None:
    """The stand-in for TensorRT-LLM's backend. Podman takes no stand-in for the device file of a GPU."""
    folder = made("not declared", world=2)
    name = f"{image.reference}@{image.digest}"
    with serving(*words(folder, "--runtime", "podman", "--gpu", "none", "--image", name)) as server:
        assert generate(server, text_input="What is a store path?", max_tokens=8)["text_output"]
        server.said.wait_for("rank 1 of 2")
        assert len(containers(server.process.pid)) == 1
        server.process.kill()
        server.process.wait()
    none_is_left(server.ready["http"])
    podman.sweep.cache_clear()
    podman.sweep()  # as the next run with podman does, if the guard was not done yet
    assert containers(server.process.pid) == []
