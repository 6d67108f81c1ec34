"""Stage `tensorrt-llm-pytorch.manifest`: ``manifest.json`` of a checkpoint with ``model.yaml``, shaped as an engine's.

Nothing was compiled, so `build` has the arguments that the recipe gave and those that ``model.yaml`` has. Nothing in it
depends on when or where it was written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from build_options import different, flat
from file_digests import digests_below
from model_yaml import read_yaml
from stage_file import Refused, StageFile, read_json, run, write_json

TOKENIZER = ("added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "vocab.json")


def build(stage: StageFile) -> None:
    model, asked = stage.input("engine"), stage.parameters
    if not (model / "model.yaml").is_file():
        raise Refused("the input engine has no model.yaml: it is no artefact of tensorrt-llm-pytorch")
    effective = flat(read_yaml((model / "model.yaml").read_text(encoding="utf-8")))
    plain = {name: value for name, value in asked["requested"].items() if not isinstance(value, dict)}
    config, files = read_json(model / "checkpoint" / "config.json"), digests_below(model)
    manifest = {
        "manifest": 1,
        "kind": "tensorrt-llm-pytorch",
        "tools": {"tensorrt_llm": asked["release"], "builder": "none"},
        "platform": {"gpu": asked["gpu"] or "not declared"},
        "containers": asked["containers"],
        "snapshots": asked["snapshots"],
        "model": {
            "architecture": (config.get("architectures") or ["unknown"])[0],
            "dtype": config.get("dtype") or config.get("torch_dtype") or "unknown",
        },
        "ranks": asked["ranks"],
        "quantisation": _quantisation(model / "checkpoint", config),
        "build": {"requested": asked["requested"], "effective": effective, "different": different(plain, effective)},
        "tokenizer": {name: of for name, of in files.items() if _is_of_tokenizer(name)},
        "inputs": {
            role: digests_below(stage.input(role)) for role in ("calibration", "checkpoint") if role in stage.inputs
        },
        "files": files,
    }
    if "smoke" in stage.inputs:
        manifest["smoke"] = read_json(stage.input("smoke") / "report.json")
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "manifest.json", manifest)


def _quantisation(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """As ModelOpt says it, else as the model itself does; {} if it is not quantised."""
    if (folder / "hf_quant_config.json").is_file():
        return flat(read_json(folder / "hf_quant_config.json").get("quantization") or {})
    return flat(config.get("quantization_config") or {})


def _is_of_tokenizer(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith("tokenizer") or last in TOKENIZER


if __name__ == "__main__":
    run(build)
