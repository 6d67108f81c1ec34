"""Stage `manifest`: ``manifest.json``, what an engine is made of.

Every file with its size, SHA-256 and BLAKE3, the model it came from, how its weights were quantised, and the tools
that made it. Nothing in it depends on when or where it was written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from file_digests import digests_below
from safetensors_file import read_checkpoint
from stage_file import StageFile, read_json, run, write_json


def build(stage: StageFile) -> None:
    engine, weights = stage.input("engine"), stage.input("weights")
    quantisation = read_json(engine / "quantisation.json")
    manifest = {
        "manifest": 1,
        "kind": "openvino",
        "model": _model(weights),
        "quantisation": {key: quantisation[key] for key in ("asked", "calibration")}
        | {key: quantisation["done"][key] for key in ("awq_layers", "largest_loss_by_type", "weights_by_type")},
        "generation": read_json(engine / "generation_config.json"),
        "tools": read_json(engine / "engine.json")["tools"],
        "files": digests_below(engine),
    }
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "manifest.json", manifest)


def _model(weights: Path) -> dict[str, Any]:
    config = read_json(weights / "config.json")
    tensors = read_checkpoint(weights)
    sizes = {"BF16": 2, "F16": 2, "F32": 4}
    return {
        "architecture": config["architectures"][0],
        "parameters": sum((tensor.end - tensor.begin) // sizes[tensor.dtype] for tensor in tensors.values()),
        "dtypes": sorted({tensor.dtype for tensor in tensors.values()}),
        "files": digests_below(weights),
    }


if __name__ == "__main__":
    run(build)
