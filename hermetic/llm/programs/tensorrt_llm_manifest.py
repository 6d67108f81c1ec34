"""Stage `tensorrt-llm.manifest`: ``manifest.json``, what an engine is made of and what its builder really did.

The builder decides some options itself, and says so only in the engine's ``config.json``: every option that was asked
for and came out otherwise is listed. Nothing in the manifest depends on when or where it was written.
"""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from file_digests import digests_below
from stage_file import Refused, StageFile, read_json, run, say, write_json

TOKENIZER = ("added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "vocab.json")
#: As the command line says it, and as a configuration does.
SWITCHES = {"enable": True, "disable": False, None: False}


def build(stage: StageFile) -> None:
    engine, asked = stage.input("engine"), stage.parameters
    config = read_json(engine / "config.json")
    model, made = config.get("pretrained_config"), config.get("build_config")
    if not isinstance(model, dict) or not isinstance(made, dict):
        raise Refused("config.json is not that of an engine: it has no pretrained_config and build_config")
    effective = _flat(made)
    different = _different(asked["requested"], effective)
    for one in different:
        say(f"{one['option']}: asked for {one['requested']}, built with {one['effective']}")
    files = digests_below(engine)
    manifest = {
        "manifest": 1,
        "kind": "tensorrt-llm",
        "tools": {"tensorrt_llm": config.get("version", "unknown"), "builder": asked["builder"]},
        "containers": asked["containers"],
        "snapshots": asked["snapshots"],
        "model": {name: model.get(name, "unknown") for name in ("architecture", "dtype")},
        "ranks": model.get("mapping", {}).get("world_size", 1),
        "quantisation": model.get("quantization", {}),
        "build": {"requested": asked["requested"], "effective": effective, "different": different},
        "tokenizer": {name: of for name, of in files.items() if name.startswith("tokenizer") or name in TOKENIZER},
        "inputs": {
            role: digests_below(stage.input(role)) for role in ("calibration", "checkpoint") if role in stage.inputs
        },
        "files": files,
    }
    if "smoke" in stage.inputs:
        manifest["smoke"] = read_json(stage.input("smoke") / "report.json")
    if config.get("version") != asked["release"]:
        raise Refused(f"the engine was built by {config.get('version')}, and the recipe says {asked['release']}")
    stage.out.mkdir(exist_ok=True)
    write_json(stage.out / "manifest.json", manifest)


def _flat(made: dict[str, Any]) -> dict[str, Any]:
    """Build and plugin options by name; what is nested deeper stays as it is. Decimals become text."""
    nested = made.get("plugin_config", {})
    flat = {name: value for name, value in made.items() if name != "plugin_config"}
    return {name: _plain(value) for name, value in sorted({**flat, **nested}.items())}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _different(requested: dict[str, Any], effective: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"option": name, "requested": value, "effective": effective[name]}
        for name, value in sorted(requested.items())
        if name in effective and _meaning(value) != _meaning(effective[name])
    ]


def _meaning(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return SWITCHES.get(value, value.lower() if value else False)
    return value


if __name__ == "__main__":
    run(build)
