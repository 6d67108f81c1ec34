"""Engines of TensorRT-LLM behind a real Triton of this machine, and one in an image.

NVIDIA's backend can't be had here: a STAND-IN for it (`hermetic.testing.triton`) answers, and the GPUs are stand-ins.
"""

from __future__ import annotations

import json
import shutil
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import triton_kit
from blake3 import blake3
from test_triton_kinds import engine
from triton_kit import Server, Tiny, none_is_left, serving

from hermetic.testing.gpu import H100, H200, stand_in_gpus
from hermetic.testing.triton.layout import StandinTriton, build_triton_image, lay_out_triton
from hermetic.testing.trtllm.image import StandinImage

pytestmark = pytest.mark.slow

H100_SAID = {"product": "NVIDIA H100 80GB HBM3", "memory_gib": 80, "sm": "9.0", "count": 1}
TOKENIZER = triton_kit.REPOSITORY / "recipes" / "tiny_qwen3" / "model"


@pytest.fixture(scope="session")
def wheels(tiny: Tiny) -> Path:
    """The tree of the lock that the tiny engine is served with."""
    return next((triton_kit.STORE / "store").glob("*-wheels/pytriton")).parent


@pytest.fixture(scope="session")
def given(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> StandinTriton:
    return lay_out_triton(tmp_path_factory.mktemp("given"), wheels)


@pytest.fixture(scope="session")
def image(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> StandinImage:
    return build_triton_image(tmp_path_factory.mktemp("image"), wheels)


Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """``made(world=2)``: an engine's folder with a manifest that says for which GPU it was made."""

    def make(gpu: object = H100_SAID, **options: Any) -> Path:
        folder = engine(tmp_path / "engine", **options)
        files = {path.name: _digests(path) for path in folder.iterdir()}
        said = {"manifest": 1, "kind": "tensorrt-llm", "platform": {"gpu": gpu}, "files": files}
        (folder / "manifest.json").write_text(json.dumps(said))
        return folder

    return make


def _digests(path: Path) -> dict[str, Any]:
    return {"blake3": blake3(path.read_bytes()).hexdigest(), "size": path.stat().st_size}


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., dict[str, str]]:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return lambda *devices: stand_in_gpus(tmp_path / "machine", devices)


def words(folder: Path, *more: str | Path) -> list[str | Path]:
    return [folder, "--tokenizer", TOKENIZER, *more]


def of(given: StandinTriton) -> list[str | Path]:
    return ["--triton", given.program, "--backends", given.backends]


def generate(server: Server, **inputs: Any) -> dict[str, Any]:
    request = urllib.request.Request(server.url("/v2/models/ensemble/generate"), json.dumps(inputs).encode())
    with urllib.request.urlopen(request) as answer:
        return dict(json.load(answer))


def test_one_rank_with_a_given_triton(given: StandinTriton, made: Made, machine: Any) -> None:
    with serving(*words(made(), *of(given)), **machine(H200(0), H100(1)), PYTHONPATH=str(given.site)) as server:
        first = generate(server, text_input="What is a store path?", max_tokens=8)
        assert first["text_output"]
        assert first == generate(server, text_input="What is a store path?", max_tokens=8)
        assert first != generate(server, text_input="What is a store?", max_tokens=8)
        assert server.ready["kind"] == "tensorrt-llm"
        server.said.wait_for("STAND-IN for TensorRT-LLM: rank 0 of 1, GPUs 0")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0
    none_is_left(server.ready["http"])
