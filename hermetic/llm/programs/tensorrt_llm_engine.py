"""Stage `tensorrt-llm.engine`: run the image's own ``trtllm-build`` or ``trtllm-bench build``.

What comes of it is judged and taken by the stage's harvest. Nothing here needs more than a Python in the image.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, read_json, run, say

#: Without a second process for a single rank; the default path goes through MPI and may not come back.
SINGLE = {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
TIMING_CACHE = "timing.cache"
RUNTIME_GIB = 1  # an allowance, as in hermetic's own estimate
NO_CACHE = b"the builder wrote no timing cache\n"


def build(stage: StageFile) -> None:
    builder = stage.parameters["builder"]
    command = _build(stage) if builder == "trtllm-build" else _bench(stage)
    tool = shutil.which(command[0])
    if tool is None:
        raise Refused(f"this environment has no {command[0]} on its PATH ({os.environ.get('PATH', '')})")
    say(" ".join(command))
    os.environ.update(SINGLE)
    os.execv(tool, [command[0], *command[1:]])  # noqa: S606  # what hangs then is the tool itself, as the harvest expects


def _build(stage: StageFile) -> list[str]:
    checkpoint = stage.input("checkpoint")
    _check(checkpoint)
    _check_memory(checkpoint, stage.parameters.get("device_gib", 0))
    command = ["trtllm-build", "--checkpoint_dir", str(checkpoint), "--output_dir", str(stage.out)]
    (stage.out / TIMING_CACHE).write_bytes(NO_CACHE)  # an artefact must be there, should the tool have none to write
    command += ["--log_level", "info", "--output_timing_cache", str(stage.out / TIMING_CACHE)]
    if "timing_cache" in stage.inputs:
        cache = stage.input("timing_cache") / TIMING_CACHE
        if not cache.is_file() or cache.read_bytes() == NO_CACHE:  # the tool would only warn, and measure afresh
            raise Refused(f"the input timing_cache has no {TIMING_CACHE}, or none that a tool has written")
        command += ["--input_timing_cache", str(cache)]
    if "adapters" in stage.inputs:
        command += ["--lora_dir", *_adapters(stage.input("adapters"))]
    return [*command, *_options(stage.parameters["options"])]


def _adapters(folder: Path) -> list[str]:
    """The folder itself, or those in it, sorted; each with its weights in safetensors."""
    found = [place for place in (folder, *sorted(folder.iterdir())) if (place / "adapter_config.json").is_file()]
    if not found:
        raise Refused("the input adapters has no adapter_config.json, at the top or in a folder of its own")
    bare = [place.name for place in found if not (place / "adapter_model.safetensors").is_file()]
    if bare:
        raise Refused(f"the adapter {bare[0]} has no adapter_model.safetensors")
    return [str(place) for place in found]


def _bench(stage: StageFile) -> list[str]:
    command = ["trtllm-bench", "--model", stage.parameters["model"], "--model_path", str(stage.input("checkpoint"))]
    command += ["--workspace", os.environ.get("TMPDIR", "/build/tmp"), "--log_level", "info", "build"]
    return [*command, *_options(stage.parameters["options"])]


def _options(options: dict[str, Any]) -> list[str]:
    words = []
    for name, value in sorted(options.items()):
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *value]
        elif value is not False:
            words += [f"--{name}", str(value)]
    return words


def _check(checkpoint: Path) -> None:
    """The tool takes minutes to find out what is missing; and ``mapping`` was decided by whoever converted."""
    config = read_json(checkpoint / "config.json")
    if "architecture" not in config:
        hint = "convert or quantise it first" if "architectures" in config else "its config.json names no architecture"
        raise Refused(f"the input checkpoint is no TensorRT-LLM checkpoint: {hint}")
    world = config.get("mapping", {}).get("world_size", 1)
    missing = [
        f"rank{rank}.safetensors" for rank in range(world) if not (checkpoint / f"rank{rank}.safetensors").is_file()
    ]
    if missing:
        raise Refused(f"the checkpoint lacks {', '.join(missing)}, and its config.json says it has {world} ranks")


def _check_memory(checkpoint: Path, device: int) -> None:
    """The largest rank against the GPU that it is for: here its size is known to the byte."""
    largest = max(path.stat().st_size for path in checkpoint.glob("rank*.safetensors")) / (1 << 30)
    if not device:
        return
    left = device - largest - RUNTIME_GIB
    say(f"weights of the largest rank {largest:.1f} GiB of {device} GiB, {left:.1f} GiB left for the key-value cache")
    if left <= 0:
        raise Refused(f"{largest:.1f} GiB of weights do not fit into a GPU of {device} GiB, runtime included")
    if left < device / 4:
        say(f"warning: {left / device:.0%} of the GPU are left for the key-value cache, less than a quarter")


if __name__ == "__main__":
    run(build)
