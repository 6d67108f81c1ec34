"""What a recipe's author meets: stages, refusals by name before anything runs, command lines of the scripts."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from by_hand import LLM

from hermetic.errors import Domain, HermeticError
from hermetic.llm import convert as conversion
from hermetic.llm import lora, pytorch, quantise, tensorrt_llm, whisper
from hermetic.llm.support import BACKENDS, Target, refusals
from hermetic.recipe import Image, Source, Stage

TEXT = Source(__file__)
IMAGE = Image("example.com/trtllm@sha256:" + "0" * 64)
STAGES = [
    conversion.Convert,
    lora.Adapters,
    lora.MergeLora,
    pytorch.PyTorchModel,
    quantise.Calibration,
    quantise.Quantise,
    tensorrt_llm.Engine,
    tensorrt_llm.Manifest,
    tensorrt_llm.Quantise,
    whisper.ConvertWhisper,
    whisper.Half,
]


def reason_of(call: Any) -> str:
    with pytest.raises(HermeticError) as caught:
        call()
    assert caught.value.domain is Domain.RECIPE
    return caught.value.reason


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_brings_every_program_that_it_imports(stage: type[Stage]) -> None:
    for programs in filter(None, (stage.programs, stage.comparator)):
        reached, pending = set[str](), [programs[0]]
        while pending:
            name = pending.pop()
            reached.add(name)
            pending += [found for found in _imports(LLM / "programs" / name) if found not in reached]
        assert set(programs) == reached


def _imports(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {f"{name}.py" for name in found if (path.parent / f"{name}.py").exists()}


@pytest.mark.parametrize(
    ("backend", "sm", "name", "kv_cache", "export", "reason"),
    [
        ("tensorrt-llm", "90", "nvfp4", "none", "tensorrt_llm", "format-for-gpu"),
        ("tensorrt-llm", "9.0", "nvfp4", "none", "tensorrt_llm", "format-for-gpu"),
        ("tensorrt-llm", "80", "fp8", "none", "tensorrt_llm", "format-for-gpu"),
        ("tensorrt-llm", "80", "w4a8_awq", "none", "tensorrt_llm", "format-for-gpu"),
        ("tensorrt-llm", "90", "w4a8_awq", "fp8", "tensorrt_llm", "format-and-cache"),
        ("tensorrt-llm", "90", "int8_sq", "fp8", "tensorrt_llm", "format-and-cache"),
        ("tensorrt-llm", "90", "fp8", "fp8", "hf", "export-for-backend"),
        ("tensorrt-llm", "80", "int4_awq", "fp8", "tensorrt_llm", "cache-for-gpu"),
        ("tensorrt-llm-pytorch", "90", "int8_sq", "none", "hf", "format-for-backend"),
        ("tensorrt-llm-pytorch", "100", "w4a8_awq", "none", "hf", "format-for-gpu"),
        ("tensorrt-llm-pytorch", "90", "int4_awq", "fp8", "hf", "format-and-cache"),
        ("vllm", "89", "w4a8_awq", "none", "hf", "format-for-gpu"),
    ],
)
def test_pairs_that_can_not_run(backend: str, sm: str, name: Any, kv_cache: Any, export: Any, reason: str) -> None:
    found = list(refusals(Target(backend, sm), name, kv_cache, export))
    assert reason in {one.reason for one in found}
    assert all(one.source and one.instead for one in found)
    fields = {"calibration": TEXT, "kv_cache": kv_cache, "export": export, "target": Target(backend, sm)}
    assert reason_of(lambda: quantise.quantise(TEXT, name, **fields)) == found[0].reason


@pytest.mark.parametrize(
    ("target", "name", "kv_cache", "export"),
    [
        (Target("tensorrt-llm-pytorch", "90"), "w4a8_awq", "fp8", "hf"),
        (Target("tensorrt-llm", "90", paged_context_fmha=False), "w4a8_awq", "fp8", "tensorrt_llm"),
        (Target("tensorrt-llm", "100"), "nvfp4", "fp8", "tensorrt_llm"),
        (Target("tensorrt-llm", "89"), "fp8", "fp8", "tensorrt_llm"),
        (Target("sglang", "75"), "nvfp4", "fp8", "hf"),
    ],
)
def test_pairs_that_can_run_or_of_which_nothing_is_known(target: Target, name: Any, kv_cache: Any, export: Any) -> None:
    assert target.backend in BACKENDS
    assert list(refusals(target, name, kv_cache, export)) == []
    made = quantise.quantise(TEXT, name, calibration=TEXT, kv_cache=kv_cache, export=export, target=target)
    assert "target" not in made.parameters_in_full()


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "int3"},
        {"kv_cache": "int8"},
        {"tp": 2},
        {"batch": 0},
        {"export": "hf", "pp": 2},
        {"largest_difference": "much"},
    ],
)
def test_quantise_refuses_what_makes_no_sense(fields: dict[str, Any]) -> None:
    given = {"checkpoint": TEXT, "calibration": TEXT, "format": "fp8", **fields}
    assert reason_of(lambda: quantise.Quantise(**given)) == "stage-invalid"


def test_names_of_adapters() -> None:
    for names in ({}, {"a/b": TEXT}, {".": TEXT}, {"a:b": TEXT}):
        assert reason_of(lambda names=names: lora.adapters(TEXT, names)) == "stage-invalid"
    assert set(lora.adapters(TEXT, {"fr": TEXT, "de": TEXT}).inputs_by_role()) == {"base", "adapters.fr", "adapters.de"}


def converted(**fields: Any) -> conversion.Convert:
    return conversion.convert(TEXT, environment=IMAGE, release="1.2.1", **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"quantization_type": "no_quant"}, ""),
        ({"weight_only": "int8"}, "--use_weight_only --weight_only_precision int8"),
        ({"quantization_type": "weights_int8"}, "--use_weight_only --weight_only_precision int8"),
        ({"quantization_type": "weights_int4"}, "--use_weight_only --weight_only_precision int4"),
        (
            {"quantization_type": "weights_kv_int8", "calibration": TEXT},
            "--int8_kv_cache --use_weight_only --weight_only_precision int8 --calib_dataset samples",
        ),
        (
            {"quantization_type": "weights_int4_kv_int8", "calibration": TEXT},
            "--int8_kv_cache --use_weight_only --weight_only_precision int4 --calib_dataset samples",
        ),
        (
            {"quantization_type": "smooth_quant", "calibration": TEXT},
            "--int8_kv_cache --per_channel --per_token --smoothquant 0.5 --calib_dataset samples",
        ),
    ],
)
def test_command_lines_of_convert_checkpoint(fields: dict[str, Any], words: str) -> None:
    import trtllm_convert

    stage = converted(tp=2, dtype="bfloat16", **fields)
    dataset = "samples" if "calibration" in fields else ""
    given = trtllm_convert.command(stage.parameters_in_full(), "in", "out", dataset)
    assert (
        " ".join(given) == f"--model_dir in --output_dir out --dtype bfloat16 --tp_size 2 --pp_size 1 {words}".strip()
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantization_type": "fp8_kv"}, "quantization-type"),
        ({"quantization_type": "fp4"}, "quantization-type"),
        ({"quantization_type": "weights_int3"}, "quantization-type"),
        ({"weight_only": "int2"}, "stage-invalid"),
        ({"options": {"use-weight-onlyy": True}}, "stage-invalid"),
        ({"options": {"model_dir": "x"}}, "stage-invalid"),
        ({"quantization_type": "smooth_quant"}, "stage-invalid"),
        ({"calibration": TEXT}, "stage-invalid"),
        ({"family": "gpt2"}, "stage-invalid"),
    ],
)
def test_convert_refuses(fields: dict[str, Any], reason: str) -> None:
    assert reason_of(lambda: converted(**fields)) == reason


def test_convert_knows_releases() -> None:
    fields = {"environment": IMAGE, "release": "0.5.0"}
    assert reason_of(lambda: conversion.convert(TEXT, **fields)) == "stage-invalid"


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"max_batch_sise": 8}},
        {"options": {"max_batch_size": "8"}},
        {"options": {"trust_remote_code": True}},
        {"options": {"model": "somewhere"}},
        {"release": "0.16.0"},
    ],
)
def test_arguments_of_the_llm_api(fields: dict[str, Any]) -> None:
    given = {"checkpoint": TEXT, "release": "1.2.1", **fields}
    assert reason_of(lambda: pytorch.PyTorchModel(**given)) == "stage-invalid"


def test_arguments_that_nobody_wrote_down_can_be_named() -> None:
    made = pytorch.PyTorchModel(checkpoint=TEXT, release="1.2.1", options={"brand_new": 1}, unchecked=("brand_new",))
    assert made.parameters_in_full()["options"] == {"brand_new": 1}


def test_the_locks_for_processors_and_for_gpus_differ_in_torch_and_what_it_brings() -> None:
    """Exact versions with hashes, and no address: the CUDA libraries too."""
    found = {}
    for name in ("models-cpu", "models-cuda"):
        lines = (LLM / "locks" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
        pinned = re.compile(r"([a-z0-9-]+==[0-9a-z.+]+)( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+ *")
        matches = [pinned.fullmatch(line) for line in lines]
        assert all(matches), [line[:80] for line, match in zip(lines, matches, strict=True) if match is None]
        found[name] = {match[1] for match in matches if match}
    assert found["models-cpu"] - found["models-cuda"] <= {"torch==2.13.0+cpu"}
    more = {entry.partition("==")[0] for entry in found["models-cuda"] - found["models-cpu"]}
    assert {"torch", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"} <= more
    assert all(name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-")) for name in more)
    assert quantise.models_environment(cuda=True).lock.endswith("models-cuda.txt")
