"""What the stages `tuned` and `engine` share: from a checkpoint to a package of AOTInductor."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aoti_settings
import torch
from aoti_model import DTYPES, Decoder, exact, exported
from architecture import parse_config
from safetensors_file import read_checkpoint
from stage_file import Refused, StageFile, read_json, say
from torch import _inductor as inductor

CACHE = aoti_settings.CACHE


def compile_package(stage: StageFile, target: Path) -> dict[str, Any]:
    """Compile the model of the stage into `target`; returns what the engine must say of itself."""
    model, parameters = stage.input("model"), stage.parameters
    device = device_of(parameters)
    architecture = parse_config(read_json(model / "config.json"))
    if parameters["longest"] > architecture.context:
        raise Refused(f"longest is {parameters['longest']}, but the model was made for {architecture.context} tokens")
    exact()
    torch.manual_seed(0)
    tensors = read_checkpoint(model)
    wanted = {name: tensors[name] for name in architecture.tensors()}
    decoder = Decoder(architecture, wanted, DTYPES[parameters["dtype"]], device)
    say(f"{architecture.kind}: {architecture.layers} layers on {name_of(device)}")
    program = exported(decoder, parameters["longest"], device)
    options = {"max_autotune": True} if parameters["tuning"] == "max" else {}
    inductor.aoti_compile_and_package(program, package_path=str(target), inductor_configs=options)
    say(f"compiled: {target.stat().st_size} bytes")
    return {"tools": tools(), "device": device, "on": name_of(device), "dtype": parameters["dtype"]}


def device_of(parameters: dict[str, Any]) -> str:
    """Where the engine computes, "cuda" or "cpu". Raises `Refused` if it is for a GPU and torch sees none."""
    device: str = parameters["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("the engine is for a GPU, and torch sees none")
    return device


def name_of(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def tools() -> dict[str, str]:
    """Versions of what makes the code."""
    found = {"torch": version("torch"), "cuda": torch.version.cuda or ""}
    if found["cuda"]:
        found["triton"] = version("triton")
    return {name: text for name, text in found.items() if text}


def take_cache(stage: StageFile) -> None:
    """Start with the cache of the tuning stage, if there is one; a copy, because the compiler writes to it."""
    if "tuned" in stage.inputs:
        shutil.copytree(stage.input("tuned") / "cache", CACHE, copy_function=_copy, dirs_exist_ok=True)
        for folder, _, _ in os.walk(CACHE):
            os.chmod(folder, 0o755)  # noqa: S103  # the stage's own


def news(stage: StageFile) -> str:
    """What the compiler added to the cache it was given: kernels that were written or chosen anew."""
    given = stage.input("tuned") / "cache"
    before = {path.relative_to(given) for path in given.rglob("*")}
    added = [path.suffix for path in CACHE.rglob("*") if path.is_file() and path.relative_to(CACHE) not in before]
    counts = {what: added.count(suffix) for what, suffix in (("kernels", ".py"), ("choices", ".best_config"))}
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)
