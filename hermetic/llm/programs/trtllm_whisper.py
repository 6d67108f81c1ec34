"""Stage `tensorrt-llm.convert-whisper`: run the image's own script for Whisper and read back both of its checkpoints.

Nothing here needs more than a Python in the image.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, read_json, run, say
from trtllm_convert import check_ranks
from whisper_halves import HALVES

#: Where the release images have it.
SCRIPT = Path("/app/tensorrt_llm/examples/models/core/whisper/convert_checkpoint.py")
ALGORITHMS = {"": None, "int8": "W8A16", "int4": "W4A16"}


def build(stage: StageFile) -> None:
    parameters, weights = stage.parameters, stage.input("weights")
    if not (weights / f"{parameters['model']}.pt").is_file():
        found = ", ".join(sorted(path.name for path in weights.iterdir())) or "nothing"
        raise Refused(f"the weights have no {parameters['model']}.pt, which the script looks for; there is {found}")
    if not SCRIPT.is_file():
        raise Refused(f"this environment has no {SCRIPT}; is it an image of TensorRT-LLM {parameters['release']}?")
    words = command(parameters, str(weights), str(stage.out))
    say(" ".join([str(SCRIPT), *words]))
    status = subprocess.run([sys.executable, str(SCRIPT), *words], check=False).returncode
    if status != 0:
        raise Refused(f"convert_checkpoint.py ended with status {status}; what it said stands above")
    check(stage.out, parameters)


def command(parameters: dict[str, Any], weights: str, out: str) -> list[str]:
    """The script's words, in one order."""
    words = ["--model_dir", weights, "--model_name", parameters["model"], "--output_dir", out]
    words += ["--dtype", parameters["dtype"]]
    if parameters["weight_only"]:
        words += ["--use_weight_only", "--weight_only_precision", parameters["weight_only"]]
    return words


def check(out: Path, parameters: dict[str, Any]) -> None:
    """Both halves are there and whole, and say what was asked for."""
    for half, architecture in HALVES.items():
        if not (out / half).is_dir():
            raise Refused(f"the script wrote no {half}")
        quantisation = check_ranks(out / half, 1, 1)
        found = read_json(out / half / "config.json").get("architecture")
        if found != architecture:
            raise Refused(f"the {half}'s config.json names the architecture {found!r}, not {architecture}")
        wanted = ALGORITHMS[parameters["weight_only"]]
        if quantisation.get("quant_algo") != wanted:
            raise Refused(
                f"{wanted} was asked for, but the {half}'s config.json says {quantisation.get('quant_algo')!r}"
            )


if __name__ == "__main__":
    run(build)
