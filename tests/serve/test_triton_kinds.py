"""Repositories of engines that need a GPU to run: what they say is what the release's backend reads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import triton_kit
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

sys.path.append(str(Path(__file__).parents[2] / "hermetic" / "llm" / "programs"))
import triton_openvino
import triton_tensorrt_llm as trtllm
from stage_file import Refused
from triton_checks import problems
from triton_config import Batching, Model, Step, Tensor, pbtxt
from triton_kinds import Served, served

from hermetic.testing.ports import free_ports

ASKED: dict[str, Any] = {
    "max_seq_len": 0, "max_batch_size": 0, "kv_cache_gib": 1, "kv_cache_reuse": True, "chunked_context": True,
    "guided_decoding": True, "bls": True, "queue_delay_us": 0, "queue_size": 0, "parameters": {},
}  # fmt: skip
BUILD = {"max_batch_size": 4, "max_seq_len": 5120, "max_input_len": 4096, "max_num_tokens": 8192}


def engine(folder: Path, release: str = "1.2.1", world: int = 1) -> Path:
    """What a TensorRT-LLM engine says of itself."""
    folder.mkdir(exist_ok=True)
    model = {"mapping": {"world_size": world}, "quantization": {"quant_algo": "W4A8_AWQ"}}
    config = {"version": release, "pretrained_config": model, "build_config": BUILD}
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(world):
        (folder / f"rank{rank}.engine").write_bytes(b"ftrt")
    return folder


def of(folder: Path, **asked: Any) -> Served:
    return served(folder, ASKED | asked)


def parsed(found: Served) -> dict[str, Any]:
    return {one.name: text_format.Parse(pbtxt(one), model_config_pb2.ModelConfig()) for one in found.models}


def test_what_seed_002_shows_each_in_its_place(tmp_path: Path) -> None:
    found = of(engine(tmp_path), queue_delay_us=3000, queue_size=32)
    config = parsed(found)["tensorrt_llm"]
    said = {name: value.string_value for name, value in config.parameters.items()}
    assert config.dynamic_batching.max_queue_delay_microseconds == 3000
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 32
    assert "max_queue_delay_microseconds" not in said
    assert said["guided_decoding_backend"] == "xgrammar"
    assert said["xgrammar_tokenizer_info_path"] == "/build/in/repository/xgrammar_tokenizer_info.json"
    assert said["tokenizer_dir"] == "/build/in/tokenizer"
    assert (said["enable_kv_cache_reuse"], said["enable_chunked_context"]) == ("true", "true")
    assert (found.kind, found.quantisation, found.limits["max_seq_len"]) == ("tensorrt-llm", "W4A8_AWQ", 5120)
    assert [one.name for one in found.models] == [
        "preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kv_cache_reuse", "chunked_context"])
def test_what_the_engine_was_not_built_for_is_refused(tmp_path: Path, name: str) -> None:
    engine(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["build_config"]["plugin_config"] = {"use_paged_context_fmha": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    neither = {"kv_cache_reuse": False, "chunked_context": False}
    with pytest.raises(Refused, match=f"{name} needs an engine"):
        of(tmp_path, **neither | {name: True})
    assert of(tmp_path, **neither).kind == "tensorrt-llm"


@pytest.mark.parametrize(
    ("release", "has", "lacks"),
    [
        ("0.12.0", {"random_seed", "min_length"}, {"seed", "return_perf_metrics", "num_return_sequences"}),
        ("0.16.0", {"random_seed", "return_kv_cache_reuse_stats"}, {"return_perf_metrics", "seed"}),
        ("0.19.0", {"random_seed", "return_perf_metrics", "guided_decoding_guide"}, {"return_num_input_tokens"}),
        ("0.20.0", {"seed", "min_tokens", "return_num_output_tokens"}, {"random_seed", "min_length"}),
        ("1.2.1", {"seed", "min_tokens", "guided_decoding_guide_type"}, {"return_kv_cache_reuse_stats"}),
    ],
)
def test_tensors_by_release(tmp_path: Path, release: str, has: set[str], lacks: set[str]) -> None:
    found = of(engine(tmp_path, release))
    assert list(problems(found.models)) == []
    for model in ("tensorrt_llm", "ensemble", "tensorrt_llm_bls"):
        names = {one.name for one in parsed(found)[model].input}
        assert has <= names
        assert not lacks & names
    assert found.guided == (not trtllm.is_older(release, "0.19"))


def test_the_engine_s_own_limits_are_the_default_and_the_most(tmp_path: Path) -> None:
    folder = engine(tmp_path)
    assert of(folder).limits["max_batch_size"] == 4
    assert parsed(of(folder, max_batch_size=2))["ensemble"].max_batch_size == 2
    for asked in ({"max_seq_len": 6000}, {"max_batch_size": 5}):
        with pytest.raises(Refused, match="was made for"):
            of(folder, **asked)


@pytest.mark.parametrize(
    ("release", "parameters", "says"),
    [
        ("1.2.1", {"max_queue_delay_microseconds": "3000"}, "dynamic_batching: use queue_delay_us"),
        ("1.2.1", {"kv_cache_fraction": "0.9"}, "is no parameter"),
        ("0.16.0", {"guided_decoding_backend": "xgrammar"}, "came with 0.19"),
        ("0.11.0", {}, "known are 0.12 and later"),
        ("", {}, "TensorRT-LLM unknown"),
    ],
)
def test_refusals(tmp_path: Path, release: str, parameters: dict[str, str], says: str) -> None:
    with pytest.raises(Refused, match=says):
        of(engine(tmp_path, release), parameters=parameters)


def test_settings_of_other_kinds_are_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").touch()
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    with pytest.raises(Refused, match="queue_delay_us is nothing that"):
        of(tmp_path, queue_delay_us=1)
    (tmp_path / "openvino_model.xml").unlink()
    with pytest.raises(Refused, match="neither"):
        of(tmp_path)


def test_the_llm_api_s_layout(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"max_position_embeddings": 40960}')
    (tmp_path / "checkpoint" / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    text = 'kv_cache_config:\n  free_gpu_memory_fraction: 0.85\nmodel: "checkpoint"\ntensor_parallel_size: 2\n'
    (tmp_path / "model.yaml").write_text(text)
    found = of(tmp_path, bls=False)
    said = yaml.safe_load(found.texts["tensorrt_llm/1/model.yaml"])
    assert said["model"] == "/build/in/engine/checkpoint"
    assert said["kv_cache_config"] == {"free_gpu_memory_fraction": 0.85}
    assert said["triton_config"] == {"decoupled": True, "max_batch_size": 0}
    assert (found.world, found.quantisation, found.limits["max_seq_len"]) == (2, "FP8", 40960)
    (config,) = parsed(found).values()
    assert not config.HasField("model_transaction_policy"), "the backend reads that from model.yaml"
    assert list(problems(found.models)) == []


GOOD = trtllm.models(trtllm.Backend("1.2.1", 4, "/t", {}, Batching()))


def changed(name: str, **fields: Any) -> tuple[Model, ...]:
    return tuple(replace(one, **fields) if one.name == name else one for one in GOOD)


def steps(**first: Any) -> tuple[Step, ...]:
    ensemble = GOOD[-1]
    return (replace(ensemble.steps[0], **first), *ensemble.steps[1:])


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (changed("postprocessing", outputs=(Tensor("OUTPUT", "INT32", (-1,)),)), "text_output is STRING"),
        (changed("preprocessing", outputs=GOOD[0].outputs[1:]), "it has no output INPUT_ID"),
        (changed("preprocessing", max_batch_size=1), "batches of 1"),
        (changed("postprocessing", inputs=(Tensor("TOKENS_BATCH", "INT32", (-1,)), *GOOD[2].inputs[1:])), "shape"),
        (changed("ensemble", steps=steps(model="other")), "there is no model other"),
        (changed("ensemble", steps=steps(inputs={})), "nothing feeds QUERY"),
        # The serving guide feeds text to the model that takes tokens.
        (
            changed("ensemble", steps=(Step("tensorrt_llm", {"text_input": "text_input"}, {}),)),
            "tensorrt_llm: it has no input text_input",
        ),
        (changed("ensemble", inputs=GOOD[-1].inputs[1:]), "nothing gives text_input"),
        (changed("tensorrt_llm", outputs=(*GOOD[1].outputs, GOOD[1].outputs[0])), "output output_ids is there twice"),
    ],
)
def test_models_that_do_not_fit_together(models: tuple[Model, ...], says: str) -> None:
    assert list(problems(GOOD)) == []
    assert any(says in problem for problem in problems(models)), list(problems(models))


def test_openvino_models_fit_together() -> None:
    assert list(problems(triton_openvino.models({}, "/t", bls=True))) == []


RECIPE = """
from hermetic import Source
from hermetic.llm.triton import triton_repository
repository = triton_repository(Source("engine"), Source("tokenizer"), queue_delay_us=2500, bls=True)
"""


@pytest.mark.usefixtures("tiny")
def test_the_stage_itself(tmp_path: Path) -> None:
    """Of an engine with two ranks, in its sandbox: what it promises, what xgrammar needs, and no start here."""
    engine(tmp_path / "engine", world=2)
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        source = triton_kit.REPOSITORY / "recipes" / "tiny_qwen3" / "model" / name
        (tmp_path / "tokenizer" / name).write_bytes(source.read_bytes())
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    done = triton_kit.hermetic("realise", "--no-link", recipe)
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    said = json.loads((made / "deployment.json").read_text())
    assert (said["kind"], said["world"], set(said["engine"]["files"])) == (
        "tensorrt-llm", 2, {"config.json", "rank0.engine", "rank1.engine"},
    )  # fmt: skip
    info = json.loads((made / "xgrammar_tokenizer_info.json").read_text())
    tokenizer = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    known = tokenizer["model"]["vocab"] | {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    assert info["encoded_vocab"] == sorted(known, key=known.__getitem__)
    assert json.loads(info["tokenizer_str"])["model"]["vocab"] == tokenizer["model"]["vocab"]
    end = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())["eos_token"]
    assert info["stop_token_ids"] == [known[end]]
    ports = [f"--{what}-port={port}" for what, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)]
    refused: subprocess.CompletedProcess[str] = triton_kit.hermetic("serve", "triton", recipe, *ports)
    assert refused.returncode == 4
    assert "error[environment/kind-not-here]" in refused.stderr
