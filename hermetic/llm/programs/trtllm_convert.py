"""Stage `tensorrt-llm.convert`: run the image's own ``convert_checkpoint.py`` and read back what it wrote.

Nothing here needs more than a Python in the image.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from disk_space import check_space
from safetensors_file import QUANTISED, Tensor, read_checkpoint, read_header
from stage_file import Refused, StageFile, read_json, run, say

#: Where the release images have the scripts, by family.
_SCRIPT = "/app/tensorrt_llm/examples/models/core/{family}/convert_checkpoint.py"
#: What the script can read of an already quantised checkpoint, and who takes the others.
_READ = ("awq", "gptq")
_ROUTE = (
    "it is no input for convert_checkpoint.py: serve it as it is with the engine kind tensorrt-llm-pytorch, or build "
    "an engine with builder='trtllm-bench'"
)
_WEIGHT_ONLY = {"int8": "W8A16", "int4": "W4A16", "int4_gptq": "W4A16_GPTQ", "int8_gptq": "W8A16_GPTQ"}


def build(stage: StageFile) -> None:
    parameters, snapshot = stage.parameters, stage.input("snapshot")
    config = read_json(snapshot / "config.json")
    tensors = check_snapshot(snapshot, config, parameters["tp"], parameters["pp"])
    script = Path(_SCRIPT.format(family=family(config, parameters)))
    if not script.is_file():
        raise Refused(f"this environment has no {script}; is it an image of TensorRT-LLM {parameters['release']}?")
    check_space(stage.out, _least(tensors, parameters))
    words = command(parameters, str(snapshot), str(stage.out), dataset(stage))
    say(" ".join([str(script), *words]))
    status = subprocess.run([sys.executable, str(script), *words], check=False).returncode
    if status != 0:
        raise Refused(f"convert_checkpoint.py ended with status {status}; what it said stands above")
    check_result(stage.out, parameters)


def family(config: dict[str, Any], parameters: dict[str, Any]) -> str:
    """Whose script it is: the recipe's word, or by the architecture that the snapshot names."""
    if parameters["family"]:
        return str(parameters["family"])
    names = config.get("architectures") or [None]
    for name, architectures in parameters["families"].items():
        if names[0] in architectures:
            return str(name)
    known = ", ".join(sorted(parameters["families"]))
    raise Refused(f"no script is known for the architecture {names[0]!r}; name its family ({known})")


def check_snapshot(snapshot: Path, config: Any, tp: int, pp: int) -> dict[str, Tensor]:
    """Its tensors, after what can be known before a weight is read."""
    if not isinstance(config, dict):
        raise Refused("config.json is not a JSON object")
    method = _method(snapshot, config)
    if method and method not in _READ:
        raise Refused(f"the checkpoint is already quantised ({method}): {_ROUTE}")
    tensors = read_checkpoint(snapshot, QUANTISED)
    heads, layers = config.get("num_attention_heads"), config.get("num_hidden_layers")
    pairs = config.get("num_key_value_heads") or heads
    # With fewer key-value heads than ranks, TensorRT-LLM gives several ranks the same one.
    if not isinstance(heads, int) or heads % tp or (isinstance(pairs, int) and pairs % tp and tp % pairs):
        raise Refused(f"tp {tp} does not divide {heads} attention heads and {pairs} key-value heads")
    if not isinstance(layers, int) or layers < pp:
        raise Refused(f"pp {pp} is more than the {layers} layers")
    return tensors


def _least(tensors: dict[str, Tensor], parameters: dict[str, Any]) -> int:
    """The bytes that the result has at least: as if the narrowest matrices that the options make were all of it."""
    options = parameters["options"]
    bits = {"float16": 16, "bfloat16": 16, "float32": 32}.get(parameters["dtype"])
    if options.get("use_weight_only") or options.get("smoothquant"):
        bits = 4 if str(options.get("weight_only_precision", "")).startswith("int4") else 8
    stored = sum(tensor.end - tensor.begin for tensor in tensors.values())
    elements = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return stored if bits is None else min(stored, elements * bits // 8)


def _method(snapshot: Path, config: dict[str, Any]) -> str:
    """Who quantised the checkpoint and how, "" if nobody did."""
    if (snapshot / "hf_quant_config.json").is_file():
        found = read_json(snapshot / "hf_quant_config.json").get("quantization") or {}
        return f"{found.get('quant_algo')} by ModelOpt"
    given = config.get("quantization_config")
    return str(given.get("quant_method", "of unknown kind")) if isinstance(given, dict) else ""


def dataset(stage: StageFile) -> str:
    """The samples as the script takes them: a folder with one file of a split ``train``, column ``text``."""
    if "calibration" not in stage.inputs:
        return ""
    samples = stage.input("calibration") / "samples.jsonl"
    if not samples.is_file():
        raise Refused("calibration is not the output of calibration(...): it has no samples.jsonl")
    folder = Path(os.environ.get("TMPDIR", "/build/tmp")) / "calibration"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(samples, folder / "train.jsonl")
    return str(folder)


def command(parameters: dict[str, Any], snapshot: str, out: str, samples: str) -> list[str]:
    """The script's words, in one order."""
    words = ["--model_dir", snapshot, "--output_dir", out]
    words += ["--dtype", parameters["dtype"], "--tp_size", str(parameters["tp"]), "--pp_size", str(parameters["pp"])]
    for name, value in sorted(parameters["options"].items()):
        if value is True:
            words.append(f"--{name}")
        elif value is not False:
            words += [f"--{name}", str(value)]
    return [*words, "--calib_dataset", samples] if samples else words


def check_result(out: Path, parameters: dict[str, Any]) -> None:
    """Every rank is there and whole, and the configuration says what was asked for."""
    quantisation = check_ranks(out, parameters["tp"], parameters["pp"])
    options = parameters["options"]
    wanted = _WEIGHT_ONLY[options.get("weight_only_precision", "int8")] if options.get("use_weight_only") else None
    if wanted and quantisation.get("quant_algo") != wanted:
        raise Refused(f"{wanted} was asked for, but config.json says {quantisation.get('quant_algo')!r}")
    if options.get("int8_kv_cache") and quantisation.get("kv_cache_quant_algo") != "INT8":
        raise Refused(f"an INT8 cache was asked for, but config.json says {quantisation.get('kv_cache_quant_algo')!r}")


def check_ranks(out: Path, tp: int, pp: int) -> dict[str, Any]:
    """Every rank of a checkpoint is there and holds tensors; returns how its configuration says it is quantised."""
    config = read_json(out / "config.json")
    world = tp * pp
    mapping = config.get("mapping") or {}
    found = tuple(mapping.get(name, 1) for name in ("world_size", "tp_size", "pp_size"))
    if found != (world, tp, pp):
        raise Refused(f"config.json maps {found} ranks (all, tp, pp), but {world} of {tp} x pp are asked for")
    for rank in range(world):
        path = out / f"rank{rank}.safetensors"
        if not path.is_file():
            raise Refused(f"{path.name} is missing, and config.json says that there are {world} ranks")
        if not read_header(path, QUANTISED):
            raise Refused(f"{path.name} holds no tensor")
    return config.get("quantization") or {}


if __name__ == "__main__":
    run(build)
