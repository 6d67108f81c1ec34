"""An engine and its manifest from the stand-in image, through the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hermetic.sandbox import tools
from hermetic.testing.trtllm.image import StandinImage, build_image

RECIPE = """\
from hermetic import Image, Source, param
from hermetic.llm import tensorrt_llm

image = Image({reference!r})
batch = param("batch", 4)
engine = tensorrt_llm.Engine(
    environment=image, release="1.2.1", checkpoint=Source("checkpoint"), tokenizer=Source("model"),
    quantisation="W4A8_AWQ", options={{"max_batch_size": batch, "max_seq_len": 5120}}, {fields}
)
manifest = tensorrt_llm.Manifest(engine=engine, checkpoint=Source("checkpoint"))
default = manifest
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> StandinImage:
    tools.available()
    return build_image(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def recipe(tmp_path: Path, image: StandinImage, cli) -> str:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    model = {
        "architecture": "Qwen3ForCausalLM",
        "dtype": "bfloat16",
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": "W4A8_AWQ", "kv_cache_quant_algo": "FP8"},
    }
    (checkpoint / "config.json").write_text(json.dumps(model))
    for rank in range(2):
        (checkpoint / f"rank{rank}.safetensors").write_bytes(bytes(400_000))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "recipe.py").write_text(RECIPE.format(reference=image.reference, fields=""))
    assert cli("lock", "recipe.py").exit_code == 0
    return "recipe.py"


def test_an_engine_and_its_manifest(recipe: str, cli, image: StandinImage) -> None:
    result = cli("realise", f"{recipe}#engine")
    assert result.exit_code == 0, result.stderr
    (engine,) = result.lines
    assert sorted(os.listdir(engine)) == [
        "config.json",
        "rank0.engine",
        "rank1.engine",
        "timing.cache",
        "tokenizer.json",
    ]
    assert "pretrained_config" in json.loads(Path(engine, "config.json").read_text())
    result = cli("realise", recipe)
    manifest = json.loads(Path(result.lines[0], "manifest.json").read_text())
    assert manifest["containers"] == [image.digest]
    assert manifest["quantisation"] == {"quant_algo": "W4A8_AWQ", "kv_cache_quant_algo": "FP8"}
    assert manifest["build"]["requested"]["max_batch_size"] == 4
    assert set(manifest["files"]) == set(os.listdir(engine))
    assert cli("inspect", engine, "--json").exit_code == 0


@pytest.mark.slow
def test_an_option_rebuilds_the_engine_and_what_follows(recipe: str, cli) -> None:
    cli("realise", recipe)
    steps = [json.loads(line) for line in cli("plan", recipe, "--set", "batch=8", "--json").lines]
    assert {step["stage"]: step["action"] for step in steps} == {"engine": "build", "manifest": "build"}
    assert (
        next(step for step in steps if step["stage"] == "engine")["reason"]
        == "changed: parameters.options.max_batch_size"
    )


def test_the_commands_are_shown_offline(recipe: str, cli, image: StandinImage) -> None:
    shown = cli("plan", f"{recipe}#engine", "--commands").stdout
    assert image.digest in shown
