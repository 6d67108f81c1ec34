"""A config through the command line: locked against the stand-in Hub, built with the stand-in for TensorRT-LLM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermetic.sandbox import tools
from hermetic.testing.hub import Hub
from hermetic.testing.trtllm.image import StandinImage, build_image

CONFIG = """\
model_name: tiny
resources: {{accelerator: "H100:2", memory: 16Gi}}
model_metadata: {{tags: [openai-compatible]}}
trt_llm:
  build:
    checkpoint_repository: {{source: HF, repo: acme/tiny}}
    tensor_parallel_count: 2
    quantization_type: {quantisation}
    max_seq_len: 2048
    max_batch_size: {batch}
  runtime:
    kv_cache_free_gpu_mem_fraction: {fraction}
"""


def config(folder: Path, *, quantisation: str = "weights_int8", batch: int = 8, fraction: str = "0.9") -> None:
    text = CONFIG.format(quantisation=quantisation, batch=batch, fraction=fraction)
    (folder / "config.yaml").write_text(text)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> StandinImage:
    tools.available()
    return build_image(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        served.repository("acme/tiny").commit(checkpoint())
        yield served


def checkpoint() -> dict[str, bytes]:
    """A Qwen3 of one matrix, with a tokenizer of eight words."""
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [512, 512], "data_offsets": [0, 524288]}}).encode()
    model = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 512,  # the stand-in answers in bytes
        "hidden_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "torch_dtype": "bfloat16",
    }
    return {
        "config.json": json.dumps(model).encode(),
        "tokenizer.json": json.dumps({"model": {"vocab": {f"t{number}": number for number in range(8)}}}).encode(),
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(range(256)) * 2048,
        "original/consolidated.pth": b"the same once more, which is not fetched",
    }


def test_a_config_is_locked_planned_and_built(hub: Hub, image: StandinImage, cli, tmp_path: Path) -> None:
    config(tmp_path)
    chosen = ("--set", f"image={image.reference}", "--set", "gpu=none")
    assert "no keys" in cli("plan", "config.yaml", *chosen).stderr  # nothing says yet what acme/tiny is
    locked = cli("lock", "config.yaml", *chosen)
    assert locked.exit_code == 0, locked.stderr
    assert (tmp_path / "config.lock.json").exists()

    planned = cli("plan", "config.yaml", "--json", *chosen)
    assert planned.exit_code == 0, planned.stderr
    steps = [json.loads(line) for line in planned.lines]
    assert [step["stage"] for step in steps] == ["tiny", "checkpoint", "engine", "smoke"]

    built = cli("realise", "config.yaml", *chosen)
    assert built.exit_code == 0, built.stderr
    (engine,) = built.lines
    assert {"config.json", "rank0.engine", "rank1.engine", "tokenizer.json"} <= set(os.listdir(engine))
    described = json.loads(Path(engine, "config.json").read_text())
    assert described["pretrained_config"]["quantization"]["quant_algo"] == "W8A16"
    assert described["build_config"]["max_batch_size"] == 8

    tree = cli("tree", "config.yaml", *chosen)
    assert tree.exit_code == 0, tree.stderr
    assert [name for name in ("-engine", "-checkpoint", "snapshot: fixed") if name not in tree.stdout] == []

    settled = {"HERMETIC_TEST_SETTLED": "1"}  # the evaluation cache believes these files at once
    assert cli("plan", "config.yaml", *chosen, env=settled).exit_code == 0
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text("class Model: ...\n")
    assert "bad-model-class" in cli("plan", "config.yaml", *chosen, env=settled).stderr
    (tmp_path / "model" / "model.py").unlink()

    config(tmp_path, fraction="0.5")  # how it is served is not what it is
    assert cli("path", "config.yaml", *chosen).lines == [engine]
    config(tmp_path, batch=16)
    steps = [json.loads(line) for line in cli("plan", "config.yaml", "--json", *chosen).lines]
    assert {step["stage"]: step["action"] for step in steps}["engine"] == "build"
    assert all(step["action"] != "build" for step in steps if step["stage"] == "checkpoint")
    assert "original" not in os.listdir(cli("path", "config.yaml#snapshot", *chosen).lines[0])


def test_a_config_with_an_error_is_not_built(cli, tmp_path: Path) -> None:
    config(tmp_path, quantisation="fp4")
    done = cli("realise", "config.yaml")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "recipe/quantisation-unsupported" in done.stderr
    assert "config.yaml:8: trt_llm.build.quantization_type: fp4 needs compute capability 10.0" in done.stderr


def test_all_errors_are_shown_at_once(cli, tmp_path: Path) -> None:
    config(tmp_path, quantisation="fp4", batch=4096)
    done = cli("plan", "config.yaml")
    assert done.exit_code == 3
    assert done.stderr.count("error[recipe/") == 2


@pytest.mark.parametrize(
    ("build", "reason", "said"),
    [
        ("quantization_type: fp8_mlp_only", "not-yet-built", "trt_llm.build.quantization_type"),
        ("base_model: encoder", "not-yet-built", "engines of the kind encoder"),
        ("checkpoint_repository: {source: AZURE, repo: azure://a/b/c}", "not-yet-built", "fetching from Azure"),
    ],
)
def test_what_is_not_built_yet_says_so(build: str, reason: str, said: str, cli, tmp_path: Path) -> None:
    repository = "" if "repository" in build else "    checkpoint_repository: {source: HF, repo: a/b}\n"
    (tmp_path / "config.yaml").write_text(
        f"resources: {{accelerator: H100}}\ntrt_llm:\n  build:\n{repository}    {build}\n"
    )
    done = cli("plan", "config.yaml")
    assert done.exit_code == 3
    assert f"recipe/{reason}" in done.stderr
    assert said in done.stderr
    assert cli("lint", "config.yaml").exit_code == 0  # Truss accepts it


def test_a_config_without_an_engine_says_so(cli, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_name: x\n")
    done = cli("plan", "config.yaml")
    assert done.exit_code == 3
    assert "recipe/nothing-to-build" in done.stderr


def test_a_misspelt_parameter_is_told_the_right_one(cli, tmp_path: Path) -> None:
    config(tmp_path)
    done = cli("lock", "config.yaml", "--set", "imag=x")
    assert "did you mean image?" in done.stderr
