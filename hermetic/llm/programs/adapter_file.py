"""A LoRA adapter as peft saves it, held against the checkpoint that it is for. Reads headers only.

``adapter_config.json`` says how to apply it and ``adapter_model.safetensors`` holds two small matrices for each one
that is adapted (three with DoRA). https://huggingface.co/docs/peft
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architecture import KINDS, Architecture
from safetensors_file import Tensor, read_header
from stage_file import Refused, read_json

#: Settings that would change the arithmetic and that nothing here applies; peft leaves them out, empty or false.
_UNSUPPORTED = (
    "alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "kasa_config", "layer_replication", "lora_bias",
    "megatron_config", "modules_to_save", "monteclora_config", "target_parameters", "trainable_token_indices",
    "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
_MODULE = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.([a-z_.]+?)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight)?"
)
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Adapter:
    """`rank` is the largest of any matrix, `alpha` a decimal as the file has it; `modules` are names within a layer."""

    rank: int
    alpha: str
    modules: tuple[str, ...]
    layers: tuple[int, ...]
    dora: bool
    rslora: bool
    base_name: str
    tensors: Mapping[str, Tensor]

    def described(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "target_modules": list(self.modules),
            "layers": len(self.layers),
            "use_dora": self.dora,
            "use_rslora": self.rslora,
            "base_model_name_or_path": self.base_name,
        }


def read_adapter(folder: Path, architecture: Architecture) -> Adapter:
    """The adapter in `folder`. Raises `Refused`, naming it, on whatever does not fit `architecture`."""
    config = read_json(folder / "adapter_config.json")
    if not isinstance(config, dict):
        raise Refused("adapter_config.json is not a JSON object")
    _check_config(config, architecture)
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        hint = (
            ": adapter_model.bin is a pickle, which may run anything; save it with safe_serialization"
            if pickled
            else ""
        )
        raise Refused(f"the adapter has no adapter_model.safetensors{hint}")
    tensors = read_header(path)
    parts = _parts(tensors, bool(config.get("use_dora")))
    for (layer, module), found in parts.items():
        _check_module(layer, module, found, architecture, config)
    modules = tuple(sorted({module for _, module in parts}))
    _check_targets(config, modules)
    return Adapter(
        rank=max(found["lora_A"].shape[0] for found in parts.values()),
        alpha=str(config.get("lora_alpha")),
        modules=modules,
        layers=tuple(sorted({layer for layer, _ in parts})),
        dora=bool(config.get("use_dora")),
        rslora=bool(config.get("use_rslora")),
        base_name=str(config.get("base_model_name_or_path") or ""),
        tensors=tensors,
    )


def _check_config(config: Mapping[str, Any], architecture: Architecture) -> None:
    if config.get("peft_type") != "LORA":
        raise Refused(f"the adapter is of type {config.get('peft_type')!r}; LORA is supported")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise Refused(f"the adapter uses {key}, which is not supported")
    if config.get("bias", "none") != "none":
        raise Refused(f"the adapter trains biases (bias {config['bias']!r}), which is not supported")
    mapping = config.get("auto_mapping") or {}
    made_for = mapping.get("base_model_class")
    kinds = {name for name, kind in KINDS.items() if kind == architecture.kind}
    if made_for is not None and made_for not in kinds:
        raise Refused(f"the adapter is for another base: it was made for {made_for}, and this is {', '.join(kinds)}")


def _parts(tensors: Mapping[str, Tensor], dora: bool) -> dict[tuple[int, str], dict[str, Tensor]]:
    """The matrices of each adapted module, by layer and name."""
    parts: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _MODULE.fullmatch(name)
        if match is None:
            raise Refused(f"the adapter holds {name}, which is no LoRA matrix of a layer")
        parts.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    if not parts:
        raise Refused("the adapter holds no matrices")
    wanted = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if dora else set())
    for (layer, module), found in parts.items():
        if set(found) != wanted:
            raise Refused(
                f"layer {layer}, {module}: the adapter holds {', '.join(sorted(found))}, not {sorted(wanted)}"
            )
    return parts


def _check_module(
    layer: int, module: str, found: Mapping[str, Tensor], architecture: Architecture, config: Mapping[str, Any]
) -> None:
    where = f"layer {layer}, {module}"
    linears = architecture.linears()
    if module not in linears or layer >= architecture.layers:
        raise Refused(
            f"the adapter is for another base: it changes {where}, and the base has {architecture.layers} layers of "
            f"{', '.join(linears)}"
        )
    rows, width = linears[module]
    rank = found["lora_A"].shape[0] if found["lora_A"].shape else 0
    shapes = {"lora_A": (rank, width), "lora_B": (rows, rank), "lora_magnitude_vector": (rows,)}
    for part, tensor in found.items():
        if tensor.shape != shapes[part]:
            raise Refused(
                f"the adapter is for another base: {where} is {rows} x {width} there, but {part} has shape "
                f"{list(tensor.shape)}"
            )
    if not config.get("rank_pattern") and rank != config.get("r"):
        raise Refused(f"{where} has rank {rank}, but adapter_config.json says r {config.get('r')!r}")


def _check_targets(config: Mapping[str, Any], modules: tuple[str, ...]) -> None:
    """Every target that the config lists must have matrices; a regular expression can't be held against them."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return
    for target in targets:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise Refused(f"adapter_config.json names the target {target!r}, for which the adapter holds nothing")


def described(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file below `folder`, and one digest over them all: what something was made of."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while data := stream.read(_CHUNK):
                digest.update(data)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    lines = "".join(f"{entry['sha256']} {entry['bytes']} {name}\n" for name, entry in sorted(files.items()))
    return {"files": files, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
