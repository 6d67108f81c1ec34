"""What is wrong with a checkpoint is said by name, before anything is built from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import by_hand  # noqa: F401  # makes the programs importable
import checkpoint
import checkpoints
import numpy as np
import pytest
from stage_file import Refused, StageFile


def normalise(model: Path, out: Path) -> Path:
    checkpoint.build(StageFile("weights", {}, {"model": model}, out))
    return out


def refused(model: Path, tmp_path: Path) -> str:
    with pytest.raises(Refused) as caught:
        normalise(model, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is written for a checkpoint that is refused"
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "the architecture 'MistralForCausalLM' is not supported"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}, "Qwen3MoeForCausalLM"),
        ({"architectures": []}, "the architecture [] is not supported"),
        ({"model_type": "llama"}, "model_type 'llama' does not fit"),
        ({"num_experts": 8}, "mixture of experts (num_experts 8)"),
        ({"use_sliding_window": True, "sliding_window": 64}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling of type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling of type 'linear'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling of type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope scaling of type 'longrope'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks low_freq_factor"),
        ({"attention_bias": True}, "attention_bias is not supported for qwen3"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantised (gptq)"),
        ({"num_key_value_heads": 4}, "not a multiple of num_key_value_heads 4"),
        ({"head_dim": 31}, "head_dim 31 is odd"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"vocab_size": 1600}, "the tokenizer does not fit: '<|im_end|>' is token 1607, but vocab_size is 1600"),
        ({"eos_token_id": 9999, "generation": {}}, "eos_token_id is 9999"),
        ({"eos_token_id": None, "generation": {}}, "eos_token_id is None"),
    ],
)
def test_config(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    generation = changes.pop("generation", None)
    settings = checkpoints.config()
    model = checkpoints.write(tmp_path / "model", settings | {"vocab_size": changes.get("vocab_size", 1700)})
    if generation is not None:
        (model / "generation_config.json").write_text("{}")
    (model / "config.json").write_text(json.dumps(settings | changes))
    assert said in refused(model, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "config.json is not valid JSON"),
        ("config.json", b"[]", "config.json is not a JSON object"),
        ("config.json", b'{"a": 1, "a": 2}', "key given twice: a"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", b'{"model": {"type": "Unigram", "vocab": []}}', "tokenizer of type 'Unigram'"),
        ("model.safetensors", None, "no model.safetensors and no model.safetensors.index.json"),
        ("model.safetensors", b"", "cut off or is no safetensors file"),
        ("model.safetensors", b"\xff" * 64, "cut off or is no safetensors file"),
        ("model.safetensors", b"\2\0\0\0\0\0\0\0[]", "not a JSON object"),
        ("model.safetensors", b"\2\0\0\0\0\0\0\0{}", "the checkpoint has no tensor model.embed_tokens.weight"),
    ],
)
def test_files(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config())
    (model / name).unlink()
    if content is not None:
        (model / name).write_bytes(content)
    assert said in refused(model, tmp_path)


Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def _drop(tensors: Tensors) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def _add(tensors: Tensors) -> None:
    tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"]


def _bias(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.o_proj.bias"] = ("F32", (1,), bytes(4))


def _transpose(tensors: Tensors) -> None:
    dtype, shape, data = tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = (dtype, shape[::-1], data)


def _integers(tensors: Tensors) -> None:
    _, shape, data = tensors["model.norm.weight"]
    tensors["model.norm.weight"] = ("I16", shape, data)


def _infinite(tensors: Tensors) -> None:
    dtype, shape, data = tensors["model.norm.weight"]
    tensors["model.norm.weight"] = (dtype, shape, np.array([0x7F80], np.uint16).tobytes() + data[2:])


def _other_head(tensors: Tensors) -> None:
    dtype, shape, data = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = (dtype, shape, data[::-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop, "no tensor model.layers.1.mlp.up_proj.weight"),
        (_add, "an unknown tensor, model.layers.2.mlp.up_proj.weight"),
        (_bias, "a bias that is not supported, model.layers.0.self_attn.o_proj.bias"),
        (_transpose, "model.layers.0.mlp.up_proj.weight has shape [128, 256], but config.json says [256, 128]"),
        (_integers, "model.norm.weight is stored as I16; BF16, F16 and F32 are supported"),
        (_infinite, "model.norm.weight holds NaN or infinity"),
        (_other_head, "lm_head.weight differs from model.embed_tokens.weight"),
    ],
)
def test_tensors(change: Callable[[Tensors], None], said: str, tmp_path: Path) -> None:
    settings = checkpoints.config()
    model = checkpoints.write(tmp_path / "model", settings)
    tensors = checkpoints.tensors(settings, "BF16")
    change(tensors)
    checkpoints.write_safetensors(model / "model.safetensors", tensors)
    assert said in refused(model, tmp_path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"data_offsets": [0, 512]}, "model.norm.weight has 512 bytes, but BF16 [128] needs 256"),
        ({"data_offsets": [256, 512]}, "leaves a hole after"),
        ({"shape": [-128]}, "other than natural numbers"),
        ({"shape": [128.0]}, "other than natural numbers"),
        ({"shape": None}, "no dtype, shape and data_offsets"),
        ({"shape": [64], "data_offsets": [0, 128]}, "its header describes"),
    ],
)
def test_header_that_lies(entry: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config())
    honest = {"dtype": "BF16", "shape": [128], "data_offsets": [0, 256]}
    header = json.dumps({"model.norm.weight": honest | entry}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(256))
    assert said in refused(model, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.pop("weight_map"), "has no weight_map"),
        (lambda index: index["weight_map"].update({"model.norm.weight": "model-00009-of-00002.safetensors"}), "00009"),
        (lambda index: index["weight_map"].update({"model.norm.weight": "../elsewhere.safetensors"}), "elsewhere"),
        (lambda index: index["weight_map"].pop("model.norm.weight"), "holds model.norm.weight, but the index places"),
        (lambda index: index["weight_map"].update({"x": "model-00001-of-00002.safetensors"}), "no shard holds: x"),
    ],
)
def test_index(change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config(), shards=2)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    change(index)
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert said in refused(model, tmp_path)


def test_shard_that_is_missing(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config(), shards=3)
    (model / "model-00002-of-00003.safetensors").unlink()
    assert "the shard model-00002-of-00003.safetensors" in refused(model, tmp_path)


def test_other_formats_are_named(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config())
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "found pytorch_model.bin" in refused(model, tmp_path)


def test_sharding_and_authorship_leave_no_trace(tmp_path: Path) -> None:
    """One model saved in two ways gives the same bytes, so whatever is built from it is not built twice."""
    one = checkpoints.write(tmp_path / "one", checkpoints.config())
    settings = checkpoints.config(transformers_version="5.1.0", _name_or_path="/home/somebody/model", use_cache=True)
    other = checkpoints.write(tmp_path / "other", settings, shards=4)
    first, second = normalise(one, tmp_path / "first"), normalise(other, tmp_path / "second")
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
        assert (first / name).stat().st_mode & 0o600 == 0o600


def test_a_tied_head_that_was_saved_is_dropped(tmp_path: Path) -> None:
    settings = checkpoints.config()
    model = checkpoints.write(tmp_path / "model", settings)
    plain = normalise(model, tmp_path / "plain")
    tensors = checkpoints.tensors(settings, "BF16")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    checkpoints.write_safetensors(model / "model.safetensors", tensors)
    with_head = normalise(model, tmp_path / "with-head")
    assert (with_head / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_a_separate_chat_template_is_taken_in(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.config())
    (model / "chat_template.jinja").write_text("{{ messages }}")
    out = normalise(model, tmp_path / "out")
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"


def test_the_committed_model_is_in_normal_form(tmp_path: Path) -> None:
    out = normalise(checkpoints.TINY, tmp_path / "out")
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (checkpoints.TINY / "model.safetensors").read_bytes()
