"""Stage `tensorrt-llm.quantise`: run the image's own ``quantize.py`` and read back what it wrote.

Nothing here needs more than a Python in the image; ModelOpt is the image's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from stage_file import Refused, StageFile, read_json, run, say
from trtllm_convert import check_ranks, check_snapshot, dataset

#: Where the release images have it.
SCRIPT = Path("/app/tensorrt_llm/examples/quantization/quantize.py")
#: What the checkpoint's config.json must say for each format; SmoothQuant has several spellings.
ALGORITHMS = {
    "fp8": "FP8",
    "int4_awq": "W4A16_AWQ",
    "int4_wo": "W4A16",
    "int8_sq": "W8A8_SQ_",
    "int8_wo": "W8A16",
    "nvfp4": "NVFP4",
    "w4a8_awq": "W4A8_AWQ",
}
CACHES = {"none": None, "fp8": "FP8", "int8": "INT8"}


def build(stage: StageFile) -> None:
    parameters, snapshot = stage.parameters, stage.input("snapshot")
    check_snapshot(snapshot, read_json(snapshot / "config.json"), parameters["tp"], parameters["pp"])
    if not SCRIPT.is_file():
        raise Refused(f"this environment has no {SCRIPT}; is it an image of TensorRT-LLM {parameters['release']}?")
    words = command(parameters, str(snapshot), str(stage.out), dataset(stage))
    say(" ".join([str(SCRIPT), *words]))
    status = subprocess.run([sys.executable, str(SCRIPT), *words], check=False).returncode
    if status != 0:
        raise Refused(f"quantize.py ended with status {status}; what it said stands above")
    check(stage.out, parameters)


def command(parameters: dict[str, Any], snapshot: str, out: str, samples: str) -> list[str]:
    """The script's words; nothing that changes a weight is left to its defaults."""
    words = ["--model_dir", snapshot, "--output_dir", out, "--qformat", parameters["format"]]
    for name in ("dtype", "seed", "awq_block_size"):
        words += [f"--{name}", str(parameters[name])]
    words += ["--tp_size", str(parameters["tp"]), "--pp_size", str(parameters["pp"]), "--batch_size", "1"]
    if parameters["kv_cache"] != "none":
        words += ["--kv_cache_dtype", parameters["kv_cache"]]
    if samples:
        count = sum(1 for line in (Path(samples) / "train.jsonl").read_text(encoding="utf-8").split("\n") if line)
        words += ["--calib_dataset", samples, "--calib_size", str(count)]
        words += ["--calib_max_seq_length", str(parameters["max_length"])]
    return words


def check(out: Path, parameters: dict[str, Any]) -> None:
    """What came out is what was asked for; the script falls back to 16 bits without a word."""
    quantisation = check_ranks(out, parameters["tp"], parameters["pp"])
    wanted, found = ALGORITHMS[parameters["format"]], quantisation.get("quant_algo")
    if not (isinstance(found, str) and (found == wanted or (wanted.endswith("_") and found.startswith(wanted)))):
        raise Refused(f"{parameters['format']} was asked for, but config.json says {found!r}")
    cache = quantisation.get("kv_cache_quant_algo")
    if cache != CACHES[parameters["kv_cache"]]:
        raise Refused(f"a cache of {parameters['kv_cache']} was asked for, but config.json says {cache!r}")


if __name__ == "__main__":
    run(build)
