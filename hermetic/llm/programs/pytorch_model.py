"""Stage `tensorrt-llm-pytorch.model`: checkpoint, ``model.yaml`` and autotuner cache as one folder, all of it checked.

``model.yaml`` names the checkpoint by a path relative to itself, so that the folder can lie anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from model_yaml import yaml_lines
from safetensors_file import QUANTISED, read_checkpoint
from stage_file import Refused, StageFile, read_json, run, say, write_json

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
#: Left behind by those who made the checkpoint, for readers and not for the backend.
_SKIPPED = re.compile(r"\..*|.*\.(bin|pt|pth|gguf|md|py)")


def build(stage: StageFile) -> None:
    parameters, checkpoint = stage.parameters, stage.input("checkpoint")
    config = check_checkpoint(checkpoint, parameters)
    settings = yaml_settings(parameters)
    cache = _autotuner(stage)
    stage.out.mkdir(exist_ok=True)
    place = stage.out / "checkpoint"
    place.mkdir()
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and not _SKIPPED.fullmatch(path.name):
            shutil.copyfile(path, place / path.name)
    (stage.out / "model.yaml").write_text("".join(f"{line}\n" for line in yaml_lines(settings)), encoding="utf-8")
    if cache is not None:
        write_json(stage.out / "autotuner.json", cache)
    say(f"{config.get('architectures', ['?'])[0]}, {len(settings)} arguments, autotuner cache: {cache is not None}")


def check_checkpoint(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """``config.json``, after a look at everything that the backend would only find out at its start."""
    if (folder / "rank0.safetensors").is_file():
        raise Refused("the checkpoint is one for trtllm-build; this engine kind loads the export hf")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not config.get("architectures"):
        raise Refused("config.json names no architecture")
    read_checkpoint(folder, QUANTISED)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise Refused(f"the checkpoint has no tokenizer ({', '.join(_TOKENIZERS)})")
    algorithm = _algorithm(folder, config)
    if parameters["quantisation"] and algorithm != parameters["quantisation"]:
        raise Refused(
            f"{parameters['quantisation']} was asked for, but the checkpoint is {algorithm or 'not quantised'}"
        )
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or heads % parameters["tp"]:
        raise Refused(f"tp {parameters['tp']} does not divide {heads} attention heads")
    return config


def _algorithm(folder: Path, config: dict[str, Any]) -> str:
    """The quantisation that both files agree on: the backend reads one of them, other servers the other."""
    inner = config.get("quantization_config") or {}
    stated = inner.get("quant_algo") or inner.get("quant_method") or ""
    if not (folder / "hf_quant_config.json").is_file():
        return str(stated)
    outer = read_json(folder / "hf_quant_config.json").get("quantization") or {}
    if inner and inner.get("quant_algo") not in (None, outer.get("quant_algo")):
        raise Refused(f"config.json says {stated}, but hf_quant_config.json says {outer.get('quant_algo')}")
    return str(outer.get("quant_algo") or "")


def yaml_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """The arguments with decimals as numbers."""
    settings: dict[str, Any] = {"model": "checkpoint", "backend": "pytorch"}
    settings |= {"tensor_parallel_size": parameters["tp"], "pipeline_parallel_size": parameters["pp"]}
    for name, value in parameters["options"].items():
        decimals = parameters["decimals"].get(name, ())
        settings[name] = value
        if isinstance(value, dict):
            settings[name] = {key: _number(name, key, one) if key in decimals else one for key, one in value.items()}
    return settings


def _number(name: str, key: str, value: Any) -> float:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise Refused(f"{name}.{key} is {value!r}, expected a decimal as a string, such as '0.9'")
    return float(value)


def _autotuner(stage: StageFile) -> Any:
    if "autotuner_cache" not in stage.inputs:
        return None
    path = stage.input("autotuner_cache")
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if len(files) != 1:
            raise Refused(f"the autotuner cache is a folder with {len(files)} JSON files; give one file")
        path = files[0]
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise Refused("the autotuner cache is no JSON object, or an empty one")
    return found


if __name__ == "__main__":
    run(build)
