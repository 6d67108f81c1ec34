"""Random checkpoints in Hugging Face layout, made with NumPy, in every variety that the stages support."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

TINY = Path(__file__).parents[2] / "recipes" / "tiny_qwen3" / "model"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}


def config(kind: str = "qwen3", **changes: Any) -> dict[str, Any]:
    """A small model whose sizes are all different, so that no two can be confused unnoticed."""
    found: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 256,
        "vocab_size": 1700,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "eos_token_id": 1607,
    }
    return found | changes


def shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as transformers saves them; written down here apart from the programs' own list."""
    hidden, inner, size = settings["hidden_size"], settings["intermediate_size"], settings["head_dim"]
    queries, pairs = settings["num_attention_heads"] * size, settings["num_key_value_heads"] * size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (settings["vocab_size"], hidden)}
    for layer in range(settings["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        found |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (queries, hidden),
            f"{name}.self_attn.k_proj.weight": (pairs, hidden),
            f"{name}.self_attn.v_proj.weight": (pairs, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, queries),
            f"{name}.mlp.gate_proj.weight": (inner, hidden),
            f"{name}.mlp.up_proj.weight": (inner, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, inner),
        }
        if settings["model_type"] == "qwen2":
            found |= {f"{name}.self_attn.{which}_proj.bias": (wide,) for which, wide in _biases(queries, pairs)}
        if settings["model_type"] == "qwen3":
            found |= {f"{name}.self_attn.{which}_norm.weight": (size,) for which in "qk"}
    found["model.norm.weight"] = (hidden,)
    if not settings["tie_word_embeddings"]:
        found["lm_head.weight"] = (settings["vocab_size"], hidden)
    return found


def _biases(queries: int, pairs: int) -> list[tuple[str, int]]:
    return [("q", queries), ("k", pairs), ("v", pairs)]


def random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Norms near one, matrices that keep the size of their inputs, so that logits neither vanish nor explode."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        return 1 + values * np.float32(0.2)
    return values * np.float32(1.5 / np.sqrt(shape[-1])) if len(shape) == 2 else values * np.float32(0.5)


def stored(values: np.ndarray[Any, Any], dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()


def tensors(settings: dict[str, Any], dtype: str, seed: int = 7) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a checkpoint, as `write_safetensors` takes them."""
    rng = np.random.default_rng(seed)
    wanted = shapes(settings).items()
    return {name: (dtype, shape, stored(random_tensor(rng, name, shape), dtype)) for name, shape in wanted}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Name -> (dtype, shape, bytes), in the order given."""
    header, position = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, _, data in tensors.values():
            stream.write(data)


def write(folder: Path, settings: dict[str, Any], *, dtype: str = "BF16", shards: int = 1, seed: int = 7) -> Path:
    """A checkpoint with random weights. The same seed gives the same weights however they are sharded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY / name, folder / name)
    rng = np.random.default_rng(seed)
    wanted = list(shapes(settings).items())
    places = {}
    for shard in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = wanted[shard * len(wanted) // shards : (shard + 1) * len(wanted) // shards]
        write_safetensors(folder / file, {n: (dtype, s, stored(random_tensor(rng, n, s), dtype)) for n, s in part})
        places |= {name: file for name, _ in part}
    if shards > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
