"""The stage programs end to end, on random checkpoints of every supported variety and on the committed model."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from by_hand import QUANTISE, SMOKE, Build, Ran, digest

pytestmark = pytest.mark.slow

CALIBRATION = checkpoints.TINY.parent / "calibration.txt"
QUESTION = "What is a store path?"
ANSWER = (
    "A store path is an immutable folder that holds the result of one stage. "
    "Its name starts with the key, so the same inputs always lead to the same path."
)
VARIETIES: dict[str, tuple[dict[str, Any], str, int]] = {
    "qwen3-tied-bf16": (checkpoints.config("qwen3"), "BF16", 1),
    "qwen3-untied-f32-sharded": (checkpoints.config("qwen3", tie_word_embeddings=False), "F32", 3),
    "qwen2-untied-f16": (checkpoints.config("qwen2", tie_word_embeddings=False), "F16", 1),
    "qwen2-tied-bf16": (checkpoints.config("qwen2"), "BF16", 1),
    "llama-tied-bf16-llama3": (
        checkpoints.config("llama", rope_scaling=checkpoints.LLAMA3, rope_theta=5e5),
        "BF16",
        2,
    ),
    "llama-untied-f32": (checkpoints.config("llama", tie_word_embeddings=False), "F32", 1),
    "llama-no-groups-f16": (checkpoints.config("llama", num_key_value_heads=6), "F16", 1),
}


def engine(build: Build, model: Path, **quantise: Any) -> dict[str, Path]:
    """The outputs of `weights`, `quantised` and `engine`, as inputs for what comes next."""
    weights = build("checkpoint.py", "weights", {}, model=model).out
    calibration = {"calibration": CALIBRATION} if {"awq", "gptq", "scale_estimation"} & set(quantise) else {}
    quantised = build("openvino_quantise.py", "quantised", QUANTISE | quantise, weights=weights, **calibration).out
    made = build("openvino_engine.py", "engine", {"generation": {}}, weights=weights, quantised=quantised).out
    return {"weights": weights, "engine": made}


def smoke(build: Build, made: dict[str, Path], *, check: bool = True, **parameters: Any) -> Ran:
    return build("openvino_smoke.py", "smoke", SMOKE | parameters, check=check, **made)


@pytest.mark.parametrize("variety", VARIETIES)
def test_unquantised_engines_compute_what_numpy_computes(variety: str, build: Build, tmp_path: Path) -> None:
    settings, dtype, shards = VARIETIES[variety]
    model = checkpoints.write(tmp_path / "model", settings, dtype=dtype, shards=shards)
    ran = smoke(build, engine(build, model, mode="none"), original_tolerance="0.0001", tolerance="0.0001")
    logits = json.loads((ran.out / "report.json").read_text())["logits"]
    assert logits["same_token_as_original"] == logits["positions"]


@pytest.mark.parametrize("variety", VARIETIES)
@pytest.mark.parametrize(("mode", "far"), [("int8_asym", "0.15"), ("int4_sym", "0.9")])
def test_quantised_engines_compute_what_their_weights_say(
    variety: str, mode: str, far: str, build: Build, tmp_path: Path
) -> None:
    settings, dtype, shards = VARIETIES[variety]
    model = checkpoints.write(tmp_path / "model", settings, dtype=dtype, shards=shards)
    smoke(build, engine(build, model, mode=mode), tolerance="0.0001", original_tolerance=far)


CALIBRATED: dict[str, dict[str, Any]] = {
    "awq": {"awq": True},
    "awq-scale_estimation": {"awq": True, "scale_estimation": True},
    "gptq": {"gptq": True},
    "awq-scale_estimation-gptq": {"awq": True, "scale_estimation": True, "gptq": True},
    "awq-ratio": {"awq": True, "ratio": "0.8"},
}


@pytest.mark.parametrize("way", CALIBRATED)
def test_calibrated_engines_answer(way: str, build: Build) -> None:
    made = engine(build, checkpoints.TINY, group_size=64, samples=32, length=128, **CALIBRATED[way])
    smoke(build, made, golden={QUESTION: ANSWER}, max_new_tokens=64, original_tolerance="0.15", allow_nonsense=False)
    quantisation = json.loads((made["engine"] / "quantisation.json").read_text())
    assert quantisation["calibration"]["samples"] == 32
    kinds = quantisation["done"]["weights_by_type"]
    assert kinds["int4"] == (2064384 if "ratio" not in way else 1638400)
    assert kinds["int4"] + kinds["uint8"] == 2588672


def test_two_runs_leave_the_same_bytes(build: Build, tmp_path: Path) -> None:
    """In other folders, and with one processor instead of all."""

    def everything(name: str) -> dict[str, str]:
        made = engine(build, checkpoints.TINY, group_size=64, awq=True, scale_estimation=True)
        made["manifest"] = build("openvino_manifest.py", "manifest", {}, **made).out
        made["smoke"] = smoke(build, made).out
        place = tmp_path / name
        digests = {}
        for stage, out in [*made.items(), ("quantised", tmp_path / "quantised")]:
            digests[stage] = digest(out)
            shutil.move(out, place / stage)
        return digests

    first = everything("first")
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        assert everything("a second folder with a longer name") == first
    finally:
        os.sched_setaffinity(0, processors)


def test_names_in_the_graph_do_not_count_what_the_process_did(build: Build) -> None:
    """They did, and differed with the instruction set that a layer was compiled for while it was calibrated."""
    made = engine(build, checkpoints.TINY, group_size=64, awq=True)
    for name in ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml"):
        assert not re.search(r'name="[A-Z][A-Za-z0-9]*_\d+"', (made["engine"] / name).read_text())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"group_size": 48},
            "group_size 48 does not divide the 128 inputs of self_attn.q_proj; 128 and",
        ),
        ({"awq": True, "samples": 100_000}, "calibration samples, but 100000 are asked for"),
        ({"mode": "int8_asym", "awq": True}, "belong to int4_sym"),
        ({"mode": "int3"}, "the mode 'int3' is not known"),
    ],
)
def test_quantise_refuses(parameters: dict[str, Any], said: str, build: Build, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config())
    weights = build("checkpoint.py", "weights", {}, model=model).out
    inputs = {"weights": weights, "calibration": CALIBRATION}
    ran = build("openvino_quantise.py", "quantised", QUANTISE | parameters, check=False, **inputs)
    assert ran.code == 1
    assert said in ran.stderr
    assert not any(ran.out.iterdir())


@pytest.mark.parametrize(
    ("change", "parameters", "said"),
    [
        ({"rope_theta": 20000.0}, {}, "logits of the prompt at once differ by"),
        ({}, {"original_tolerance": "0.00001"}, "logits of the original weights differ by"),
        ({}, {"golden": {QUESTION: "Something else."}}, "instead of 'Something else.'"),
    ],
)
def test_smoke_finds(change: dict[str, Any], parameters: dict[str, Any], said: str, build: Build) -> None:
    made = engine(build, checkpoints.TINY, group_size=64)
    config = made["engine"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    ran = smoke(build, made, check=False, max_new_tokens=64, **parameters)
    assert ran.code == 1
    assert ran.stderr.startswith("error: ")
    assert said in ran.stderr


def test_smoke_compares_the_engine_with_its_manifest(build: Build) -> None:
    made = engine(build, checkpoints.TINY, group_size=64)
    made["manifest"] = build("openvino_manifest.py", "manifest", {}, **made).out
    smoke(build, made)
    settings = made["engine"] / "generation_config.json"
    settings.write_text(settings.read_text() + " ")
    assert "generation_config.json is not the file that the manifest lists" in smoke(build, made, check=False).stderr


def test_chat_prints_the_answer_and_nothing_else(build: Build) -> None:
    made = engine(build, checkpoints.TINY, group_size=64)
    ran = build("openvino_chat.py", "chat", {"prompt": QUESTION, "max_new_tokens": 64}, engine=made["engine"])
    assert (ran.stdout, ran.stderr) == (ANSWER, "")


def test_engine_settings_come_from_the_recipe(build: Build) -> None:
    weights = build("checkpoint.py", "weights", {}, model=checkpoints.TINY).out
    quantised = build("openvino_quantise.py", "quantised", QUANTISE, weights=weights).out
    wanted = {"max_new_tokens": 7, "temperature": "0.5"}
    made = build("openvino_engine.py", "engine", {"generation": wanted}, weights=weights, quantised=quantised).out
    settings = json.loads((made / "generation_config.json").read_text())
    assert (settings["max_new_tokens"], settings["temperature"], settings["eos_token_id"]) == (7, 0.5, [1607, 1605])


def test_a_tokenizer_that_begins_with_a_mark(build: Build, tmp_path: Path) -> None:
    """Llama's tokenizers put a token before every text."""
    model = checkpoints.write(tmp_path / "model", checkpoints.config("llama"))
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [1605], "tokens": ["<|endoftext|>"]}},
    }
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [tokenizer["post_processor"], template]}
    path.write_text(json.dumps(tokenizer))
    smoke(build, engine(build, model))


def test_a_model_without_a_chat_template(build: Build, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config())
    (model / "tokenizer_config.json").unlink()
    made = engine(build, model)
    smoke(build, made)
    ran = build("openvino_chat.py", "chat", {"prompt": "Once", "max_new_tokens": 3}, engine=made["engine"])
    assert ran.stdout
