"""Stage `adapters`: several LoRA adapters of one base, checked and laid out for a server that applies them at run time.

``<name>/adapter_config.json`` and ``<name>/adapter_model.safetensors`` for each, and ``adapters.json`` with what a
server must be told: the largest rank and the target modules of all.
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from adapter_file import described, read_adapter
from architecture import parse_config
from checkpoint import check_tensors
from safetensors_file import check_finite, read_checkpoint, write_file
from stage_file import Refused, StageFile, read_json, run, say, write_json

_ROLE = "adapters."


def build(stage: StageFile) -> None:
    base = stage.input("base")
    architecture = parse_config(read_json(base / "config.json"))
    check_tensors(architecture, read_checkpoint(base))
    folders = {role.removeprefix(_ROLE): path for role, path in stage.inputs.items() if role.startswith(_ROLE)}
    found = {name: read_adapter(folder, architecture) for name, folder in sorted(folders.items())}
    for name, adapter in found.items():
        if adapter.dora:
            # vllm/lora/peft_helper.py: "vLLM does not yet support DoRA."
            raise Refused(f"the adapter {name} uses DoRA, which servers do not apply at run time; merge it instead")
        for tensor_name, tensor in adapter.tensors.items():
            check_finite(f"{name}: {tensor_name}", tensor)
    stage.out.mkdir(exist_ok=True)
    for name, adapter in found.items():
        place = stage.out / name
        place.mkdir()
        write_json(place / "adapter_config.json", read_json(folders[name] / "adapter_config.json"))
        write_file(place / "adapter_model.safetensors", dict(adapter.tensors))
        say(f"{name}: rank {adapter.rank}, {', '.join(adapter.modules)}")
    record = {
        "adapters": {name: {**adapter.described(), **described(folders[name])} for name, adapter in found.items()},
        "max_lora_rank": max(adapter.rank for adapter in found.values()),
        "target_modules": sorted({module for adapter in found.values() for module in adapter.modules}),
    }
    write_json(stage.out / "adapters.json", record)


if __name__ == "__main__":
    run(build)
