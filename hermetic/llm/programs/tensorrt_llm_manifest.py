"""Stage `tensorrt-llm.manifest`: ``manifest.json``, what an engine is made of and what its builder really did.

The builder decides some options itself, and says so only in the engine's ``config.json``: every option that was asked
for and came out otherwise is listed. Nothing in the manifest depends on when or where it was written.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from build_options import different, flat, tensorrt_of
from file_digests import digests_below
from stage_file import Refused, StageFile, read_json, run, say, write_json

TOKENIZER = ("added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "vocab.json")


def build(stage: StageFile) -> None:
    engine, asked = stage.input("engine"), stage.parameters
    files = digests_below(engine)
    manifest = {
        **described(engine, asked, asked["requested"]),
        "tokenizer": {name: of for name, of in files.items() if name.startswith("tokenizer") or name in TOKENIZER},
        "inputs": {
            role: digests_below(stage.input(role)) for role in ("calibration", "checkpoint") if role in stage.inputs
        },
        "files": files,
    }
    if "smoke" in stage.inputs:
        manifest["smoke"] = read_json(stage.input("smoke") / "report.json")
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "manifest.json", manifest)


def described(engine: Path, asked: dict[str, Any], requested: dict[str, Any]) -> dict[str, Any]:
    """What is said of the engine in a folder, whose builder was given the options `requested`."""
    config = read_json(engine / "config.json")
    model, made = config.get("pretrained_config"), config.get("build_config")
    if not isinstance(model, dict) or not isinstance(made, dict):
        raise Refused("config.json is not that of an engine: it has no pretrained_config and build_config")
    if config.get("version") != asked["release"]:
        raise Refused(f"the engine was built by {config.get('version')}, and the recipe says {asked['release']}")
    effective = flat(made)
    changed = different(requested, effective)
    for one in changed:
        say(f"{one['option']}: asked for {one['requested']}, built with {one['effective']}")
    return {
        "manifest": 1,
        "kind": "tensorrt-llm",
        "tools": {
            "tensorrt_llm": config.get("version", "unknown"),
            "tensorrt": tensorrt_of(engine / "rank0.engine"),
            "builder": asked["builder"],
        },
        "platform": {"gpu": asked["gpu"] or "not declared"},
        "containers": asked["containers"],
        "snapshots": asked["snapshots"],
        "model": {name: model.get(name, "unknown") for name in ("architecture", "dtype")},
        "ranks": model.get("mapping", {}).get("world_size", 1),
        "quantisation": model.get("quantization", {}),
        "build": {"requested": requested, "effective": effective, "different": changed},
    }


if __name__ == "__main__":
    run(build)
