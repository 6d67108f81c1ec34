"""What the stand-in Hub has for docs/from: small repositories under the names that the pages use."""

from __future__ import annotations

import json
from pathlib import Path

_LICENCE = b"---\nlicense: apache-2.0\n---\n"


def repositories(recipes: Path) -> dict[str, dict[str, bytes]]:
    """Files by repository."""
    tiny = {path.name: path.read_bytes() for path in (recipes / "tiny_qwen3/model").iterdir()} | {"README.md": _LICENCE}
    # Engines of the stand-in have a megabyte, and one that weighs much less than its model's weights is refused.
    light = tiny | {"model.safetensors": _one_matrix()}
    return {
        "Qwen/Qwen3-32B": tiny,
        "nvidia/Qwen3-32B-NVFP4": light,
        "acme/support-assistant": light,
        "acme/support-adapter": {"adapter_config.json": _ADAPTER, "adapter_model.safetensors": _one_matrix()},
    }


_ADAPTER = json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}).encode()


def _one_matrix() -> bytes:
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [512, 512], "data_offsets": [0, 524288]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(256)) * 2048
