"""Engines of TensorRT-LLM behind a real Triton of this machine, and one in an image.

NVIDIA's backend can't be had here: a STAND-IN for it (`hermetic.testing.triton`) answers, and the GPUs are stand-ins.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import triton_kit
from blake3 import blake3
from test_triton_hearing import whisper
from test_triton_kinds import engine
from triton_kit import Server, Tiny, environment, hermetic, none_is_left, serving
from whisper_kit import vocabulary

from hermetic.sandbox.gpu_lease import lease
from hermetic.serve.openai.upstream import Ask, Upstream
from hermetic.testing.gpu import H100, H200, stand_in_gpus
from hermetic.testing.ports import free_ports
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

    def make(gpu: object = H100_SAID, *, own_tokenizer: bool = False, **options: Any) -> Path:
        folder = engine(tmp_path / "engine", **options)
        for path in TOKENIZER.glob("tokenizer*") if own_tokenizer else ():
            shutil.copy(path, folder)
        files = {path.name: _digests(path) for path in folder.iterdir() if path.name != "manifest.json"}
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
    return [folder, "--tokenizer", TOKENIZER, "--verbose", *more]


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
        asyncio.run(given_up(server.grpc))
        assert "is stopped" in server.said.wait_for("STAND-IN for TensorRT-LLM: mine")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0
    none_is_left(server.ready["http"])


def test_whisper_hears(given: StandinTriton, machine: Any, tmp_path: Path) -> None:
    folder = whisper(tmp_path / "engine")
    (folder / "multilingual.tiktoken").write_bytes(vocabulary())
    files = {path.relative_to(folder).as_posix(): _digests(path) for path in folder.rglob("*") if path.is_file()}
    said = {"manifest": 1, "kind": "tensorrt-llm", "platform": {"gpu": H100_SAID}, "files": files}
    (folder / "manifest.json").write_text(json.dumps(said))
    with serving(folder, *of(given), **machine(H100(0)), PYTHONPATH=str(given.site)) as server:
        first = heard(server, 1.0)
        assert len(first) == 110  # as long as the decoder was built for, less what it begins with
        assert first == heard(server, 1.0, prefix="<|startoftranscript|><|en|><|transcribe|><|notimestamps|>")
        assert first != heard(server, 1.0, prefix="<|startoftranscript|><|de|><|transcribe|><|notimestamps|>")
        assert first != heard(server, 0.5)
        assert len(heard(server, 31.0)) == 221  # two pieces and a space
        for prefix, why in (("<|xx|>", "the model has no <|xx|>"), ("Hello", "is other than a row of tokens")):
            with pytest.raises(urllib.error.HTTPError) as caught:
                heard(server, 1.0, prefix=prefix)
            assert why in caught.value.read().decode()
    none_is_left(server.ready["http"])


def heard(server: Server, seconds: float, prefix: str = "") -> str:
    """By Triton's HTTP, as NVIDIA's own client asks."""
    count = int(16000 * seconds)
    sound = [round((place % 100) / 100 - 0.5, 2) for place in range(count)]
    tensors = [("TEXT_PREFIX", "BYTES", [prefix], 1), ("WAV", "FP32", sound, count), ("WAV_LENS", "INT32", [count], 1)]
    inputs = [{"name": name, "datatype": kind, "shape": [1, size], "data": data} for name, kind, data, size in tensors]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "TRANSCRIPTS"}]}).encode()
    request = urllib.request.Request(server.url("/v2/models/whisper_bls/infer"), body)
    with urllib.request.urlopen(request) as answer:
        (output,) = json.load(answer)["outputs"]
    return str(output["data"][0])


async def given_up(address: str) -> None:
    """An answer that would take for ever, by the proxy's way to Triton."""
    upstream = Upstream(address, ())
    async with aclosing(upstream.generate(Ask([1, 2], 100_000_000), "mine", 60)) as answer:
        await anext(answer)
    await upstream.close()


def test_two_ranks_with_a_given_triton(given: StandinTriton, made: Made, machine: Any) -> None:
    """Under the stand-in for mpirun; the GPUs are held until the end, and an end lets requests come to theirs."""
    cards = (H100(0), H200(1), H100(2))
    variables = machine(*cards) | {
        "PYTHONPATH": str(given.site),
        "PATH": f"{given.program.parent}:{os.environ['PATH']}",
    }
    with serving(*words(made(world=2), *of(given)), **variables) as server:
        assert generate(server, text_input="What is a store path?", max_tokens=8)["text_output"]
        server.said.wait_for("rank 0 of 2, GPUs 0,1")
        server.said.wait_for("rank 1 of 2, GPUs 0,1")
        assert held(variables, H100(0), H100(2))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == 0
    none_is_left(server.ready["http"])
    assert not held(variables, H100(0), H100(2))


def held(variables: dict[str, str], *devices: Any) -> bool:
    """Whether each of `devices` is leased by somebody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERMETIC_GPU_LOCKS", variables["HERMETIC_GPU_LOCKS"])
        found = [lease([device], 1) for device in devices]
    for one in found:
        if one is not None:
            one.release()
    return found == [None] * len(devices)


@pytest.mark.parametrize("world", [1, 2])
def test_in_an_image(image: StandinImage, made: Made, machine: Any, world: int) -> None:
    """By its digest; a kill leaves nothing."""
    name = f"{image.reference}@{image.digest}"
    variables = machine(H100(0), H100(1)) | {"TRITON_IMAGE": name}
    with serving(*words(made(world=world)), **variables) as server:
        assert generate(server, text_input="What is a store path?", max_tokens=8)["text_output"]
        server.said.wait_for(f"rank {world - 1} of {world}, GPUs {'0,1'[: 2 * world - 1]}")
        server.process.kill()
    none_is_left(server.ready["http"])
    assert not held(variables, H100(0))


def test_a_roll_back_tries_the_engine_in_the_triton_that_is_named(
    image: StandinImage, made: Made, machine: Any, tmp_path: Path
) -> None:
    older = made(own_tokenizer=True)
    newer = shutil.copytree(older, tmp_path / "newer")
    policy = tmp_path / "policy.toml"
    policy.write_text('policy = 1\n[[readiness.warm_up]]\nprompt = "What?"\nmax_tokens = 4\n')
    name, variables = f"places-{os.getpid()}", environment(**machine(H100(0)))

    def hermetic(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hermetic", *map(str, words)]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    try:
        for folder in (older, newer):
            assert hermetic("link", name, folder, "--to", tmp_path / "links").returncode == 0
        rollback = ["profile", "rollback", name, "--cause", "why", "--policy", policy]
        done = hermetic(*rollback, "--image", f"{image.reference}@{image.digest}")
        assert done.returncode == 0, done.stderr
        assert "llm_rollback_completed" in done.stderr
        assert os.path.realpath(tmp_path / "links" / name) == str(older)
        nowhere = hermetic(*rollback, "--to", "2")
        assert nowhere.returncode == 4
        assert "llm_rollback_completed" not in nowhere.stderr
    finally:
        shutil.rmtree(triton_kit.STORE / "profiles" / name, ignore_errors=True)


def refused(folder: Path, *more: str | Path, code: int = 4, **variables: str) -> str:
    """What ``hermetic serve triton`` says before anything is started; its exit code is that of the environment."""
    ports = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)]
    command = [sys.executable, "-m", "hermetic", "serve", "triton", *map(str, words(folder, *more)), *ports]
    done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "model_lifecycle" not in done.stderr
    return done.stderr


def test_what_is_not_there_is_said_with_what_is_needed(given: StandinTriton, made: Made, machine: Any) -> None:
    engine_of = made(world=2)
    with_h100s = machine(H100(0), H100(1)) | {"PYTHONPATH": str(given.site)}
    said = refused(engine_of, **with_h100s)
    assert "error[environment/kind-not-here]" in said
    nothing = {"HERMETIC_TEST_GPUS": "", "PYTHONPATH": str(given.site)}
    said = refused(engine_of, *of(given), **nothing)
    assert "error[environment/gpu-missing]" in said
    assert "needs 2 x NVIDIA H100 80GB HBM3 (80 GiB, sm 9.0), and this machine has no GPU" in said
    said = refused(engine_of, *of(given), **with_h100s)
    assert "error[environment/no-backend]" in said  # for two ranks
    assert "mpirun" in said


def test_another_gpu_and_another_release_are_refused_naming_both(
    given: StandinTriton, made: Made, machine: Any
) -> None:
    variables = machine(H200()) | {"PYTHONPATH": str(given.site)}
    said = refused(made(), *of(given), **variables)
    assert "error[environment/gpu-mismatch]" in said
    assert "declared for 1 x NVIDIA H100 80GB HBM3 (80 GiB, sm 9.0), but this machine has NVIDIA H200" in said
    said = refused(made({"sm": "9.0", "count": 1}, release="1.2.0"), *of(given), **variables)
    assert "error[environment/release-mismatch]" in said
    assert "is of TensorRT-LLM 1.2.0, and the Triton" in said
    assert "has TensorRT-LLM 1.2.1" in said


def test_an_image_is_held_against_policy_and_driver_before_it_is_brought(
    made: Made, machine: Any, tmp_path: Path
) -> None:
    name, folder, variables = f"nvcr.io/nvidia/tensorrt-llm/release:1.2.1@sha256:{'0' * 64}", made(), machine(H100())
    inventory = Path(variables["HERMETIC_TEST_GPUS"])
    inventory.write_text(inventory.read_text().replace("580.159.04", "570.86.10"))
    said = refused(folder, "--image", name, **variables)
    assert "error[environment/driver-too-old]" in said
    assert "needs driver 580 or later; this machine has 570.86.10" in said
    approved = tmp_path / "approved.toml"
    approved.write_text('[[approved]]\nreference = "nvcr.io/nvidia/tensorrt-llm/release:1.2.0"\n')
    said = refused(folder, "--image", name, code=5, HERMETIC_IMAGES=str(approved), **variables)
    assert "error[trust/image-not-approved]" in said
    compose = ["serve", "compose", folder, "--tokenizer", TOKENIZER, "--image", name, "--out", tmp_path / "out"]
    done = hermetic(*compose, HERMETIC_IMAGES=str(approved))
    assert (done.returncode, "error[trust/image-not-approved]" in done.stderr) == (5, True)
    done = hermetic(*compose, **variables)
    assert (done.returncode, "not on this machine: " in done.stderr) == (0, True)


RECIPE = """
from hermetic import Image, Source
from hermetic.llm.triton import triton_repository
engine, tokenizer, manifest = map(Source, ("engine", "tokenizer", "manifest"))
repository = triton_repository(engine, tokenizer, manifest=manifest, server=Image("IMAGE"))
"""


def test_in_the_image_that_the_recipe_names(image: StandinImage, made: Made, machine: Any, tmp_path: Path) -> None:
    (tmp_path / "manifest").mkdir()
    shutil.move(made() / "manifest.json", tmp_path / "manifest")
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.replace("IMAGE", f"{image.reference}@{image.digest}"))
    with serving(recipe, "--verbose", **machine(H100())) as server:
        assert generate(server, text_input="What is a store path?", max_tokens=8)["text_output"]
        server.said.wait_for("rank 0 of 1, GPUs 0")
