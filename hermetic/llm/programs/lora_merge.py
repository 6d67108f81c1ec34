"""Stage `merge_lora`: base and adapter as one checkpoint, made by peft and proved to compute the same.

The merge is made in float32, the base's weights being exact in it. Three models compute logits of the same seeded
tokens: base with the adapter beside it, the merged one before it is rounded to `dtype`, and what was read back from
the written files. ``merge.json`` says what was merged and how far they are apart.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from adapter_file import described, read_adapter
from architecture import Architecture, parse_config
from checkpoint import check_tensors, read_tokenizer
from disk_space import check_space
from safetensors_file import check_finite, read_checkpoint
from stage_file import Refused, StageFile, read_json, run, say, write_json

_SHARD_BYTES = 5_000_000_000
_ELEMENT = {"bfloat16": 2, "float16": 2, "float32": 4}


def build(stage: StageFile) -> None:
    parameters, base, folder = stage.parameters, stage.input("base"), stage.input("adapter")
    config = read_json(base / "config.json")
    architecture = parse_config(config)
    tensors = check_tensors(architecture, read_checkpoint(base))
    read_tokenizer(base, architecture)
    adapter = read_adapter(folder, architecture)
    if parameters["base_name"] and adapter.base_name != parameters["base_name"]:
        raise Refused(f"the adapter says it is for {adapter.base_name!r}, not for {parameters['base_name']!r}")
    for name, tensor in [*tensors.items(), *adapter.tensors.items()]:
        check_finite(name, tensor)
    say(f"rank {adapter.rank}, alpha {adapter.alpha}, {', '.join(adapter.modules)} of {len(adapter.layers)} layers")
    weights = sum(_count(tensor.shape) for tensor in tensors.values()) * _ELEMENT[parameters["dtype"]]
    check_space(stage.out, weights)
    from torch_model import copy_companions  # noqa: PLC0415  # headers need no torch

    stage.out.mkdir(exist_ok=True)
    checked = _merge(base, folder, architecture, parameters, stage.out)
    copy_companions(base, stage.out)
    record = {
        "adapter": {**described(folder), **adapter.described()},
        "base": described(base),
        "checked": checked,
        "dtype": parameters["dtype"],
        "tools": {name: version(name) for name in ("peft", "safetensors", "torch", "transformers")},
    }
    write_json(stage.out / "merge.json", record)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _merge(base: Path, adapter: Path, architecture: Architecture, parameters: dict[str, Any], out: Path) -> Any:
    from peft import PeftModel  # noqa: PLC0415
    from torch_model import DTYPES, difference, exact, load, logits, seeded_prompts  # noqa: PLC0415

    exact()
    prompts = seeded_prompts(architecture.vocabulary, parameters["prompts"], parameters["positions"])
    plain = load(base, "float32")
    without = logits(plain, prompts)
    adapted = PeftModel.from_pretrained(plain, str(adapter), is_trainable=False).eval()
    beside = logits(adapted, prompts)
    change, _ = difference(beside, without)
    if change == 0:
        raise Refused("the adapter changes nothing: no logit of the base with it differs from the base alone")
    merged = adapted.merge_and_unload(safe_merge=True)
    checked = {"adapter_moves": f"{change:.6f}"}
    _compare("merged", logits(merged, prompts), beside, parameters["tolerance"], checked)
    _write(merged.to(DTYPES[parameters["dtype"]]), architecture, read_json(base / "config.json"), parameters, out)
    del plain, adapted, merged
    _compare("stored", logits(load(out, "float32"), prompts), beside, parameters["stored_tolerance"], checked)
    return {**checked, "positions": parameters["positions"] * parameters["prompts"]}


def _compare(what: str, found: Any, expected: Any, tolerance: str, checked: dict[str, Any]) -> None:
    from torch_model import difference  # noqa: PLC0415

    far, same = difference(found, expected)
    say(f"{what}: largest relative difference {far:.2g}, same token at {same:.3f} of the positions")
    if not far <= float(tolerance):
        raise Refused(f"the {what} model is {far:.2g} away from base and adapter, and {tolerance} is allowed")
    checked[what] = {"allowed": tolerance, "largest_relative": f"{far:.6f}", "same_token": f"{same:.3f}"}


def _write(
    model: Any, architecture: Architecture, config: dict[str, Any], parameters: dict[str, Any], out: Path
) -> None:
    """The tensors of the architecture, sorted by name, in files of up to 5 GB, with an index if there are several."""
    from safetensors.torch import save_file  # noqa: PLC0415

    state = model.state_dict()
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(architecture.tensors()):
        length = state[name].numel() * state[name].element_size()
        if size and size + length > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += length
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: state[name].contiguous() for name in names}, out / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    dtype = {key: parameters["dtype"] for key in ("torch_dtype", "dtype") if key in config} or {
        "dtype": parameters["dtype"]
    }
    write_json(out / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"} | dtype)


if __name__ == "__main__":
    run(build)
