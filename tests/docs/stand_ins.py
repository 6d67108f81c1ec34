"""What the stand-in Hub has for docs/from: small repositories under the names that the pages use."""

from __future__ import annotations

import json
from pathlib import Path

_LICENCE = b"---\nlicense: apache-2.0\n---\n"


def repositories(recipes: Path) -> dict[str, dict[str, bytes]]:
    """Files by repository."""
    tiny = {path.name: path.read_bytes() for path in (recipes / "tiny_qwen3/model").iterdir()}
    return {
        "Qwen/Qwen3-32B": {**tiny, "README.md": _LICENCE},
        "nvidia/Qwen3-32B-NVFP4": {**_one_matrix(), "README.md": _LICENCE},
        "acme/support-assistant": {**_one_matrix(), "README.md": _LICENCE},
    }


def _one_matrix() -> dict[str, bytes]:
    """A Qwen3 of one matrix, light enough for the stand-in's engines of a megabyte, with a tokenizer of eight words."""
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [512, 512], "data_offsets": [0, 524288]}}).encode()
    model = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 8,
        "hidden_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "torch_dtype": "bfloat16",
    }
    tokens = {"model": {"vocab": {f"t{number}": number for number in range(8)}}}
    return {
        "config.json": json.dumps(model).encode(),
        "tokenizer.json": json.dumps(tokens).encode(),
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(range(256)) * 2048,
    }
