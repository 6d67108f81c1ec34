"""Stage `quantise`: NVIDIA ModelOpt quantises a checkpoint, and what it wrote is read back and compared.

Everything that can be known from headers is checked before torch is even imported. Output of the export ``hf``: a
Hugging Face checkpoint with ``hf_quant_config.json``; of ``tensorrt_llm``: ``config.json`` and one
``rankN.safetensors`` a rank, for ``trtllm-build``. Both have the tokenizer and ``quantisation.json``: what was asked,
what was calibrated with, what the files hold, and how far the logits moved.
"""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from architecture import Architecture, parse_config
from checkpoint import check_tensors, read_tokenizer
from disk_space import check_space
from quantised_checkpoint import FORMATS, Asked, read_back
from quantised_values import losses
from safetensors_file import QUANTISED, Tensor, read_checkpoint
from samples_file import read_samples
from stage_file import Refused, StageFile, read_json, run, say, write_json

#: ModelOpt's name for each format; https://github.com/NVIDIA/Model-Optimizer, modelopt/torch/quantization/config.py.
_CONFIGS = {
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
}
_DECODERS = {"qwen2": "qwen", "qwen3": "qwen", "llama": "llama"}
_COMPARED = 2


def build(stage: StageFile) -> None:
    parameters, source = stage.parameters, stage.input("checkpoint")
    asked = Asked(*(parameters[key] for key in ("format", "kv_cache", "export", "tp", "pp")))
    architecture, tensors = _checked(source, asked)
    size = sum(tensor.end - tensor.begin for tensor in tensors.values())
    samples, chosen = read_samples(stage.input("calibration"), source / "tokenizer.json")
    say(f"{asked.format}, KV cache {asked.kv_cache}: {len(samples)} samples, {sum(map(len, samples))} tokens")
    check_space(stage.out, _expected(architecture, asked, size))
    from torch_model import copy_companions, say_memory  # noqa: PLC0415  # headers need no torch

    model, moved = _quantised(source, parameters, samples)
    stage.out.mkdir(exist_ok=True)
    _export(model, architecture, asked, parameters["dtype"], stage.out)
    copy_companions(source, stage.out)
    held: dict[str, Any] = read_back(stage.out, asked, architecture)
    if asked.export == "hf":
        loss = losses(asked.format, architecture, tensors, read_checkpoint(stage.out, QUANTISED))
        held["largest_loss"] = f"{loss:.3f}"
    say_memory()
    record = {
        "asked": parameters,
        "calibration": {**chosen, "samples": len(samples), "tokens": sum(map(len, samples))},
        "held": held,
        "moved": moved,
        "original_bytes": size,
        "tools": {name: version(name) for name in ("nvidia-modelopt", "torch", "transformers")},
    }
    write_json(stage.out / "quantisation.json", record)


def _checked(source: Path, asked: Asked) -> tuple[Architecture, dict[str, Tensor]]:
    """The checkpoint's architecture and tensors, after everything that can be known without the weights."""
    if not source.is_dir():
        raise Refused("the checkpoint is a file; give the folder that holds config.json and the weights")
    architecture = parse_config(read_json(source / "config.json"))
    tensors = check_tensors(architecture, read_checkpoint(source))
    read_tokenizer(source, architecture)
    _check_split(asked, architecture)
    return architecture, tensors


def _expected(architecture: Architecture, asked: Asked, size: int) -> int:
    """About how many bytes the result takes: its matrices as they will be, everything else as it is."""
    fmt = FORMATS[asked.format]
    weights = sum(rows * width for rows, width in architecture.linears().values()) * architecture.layers
    return max(size - 2 * weights, 0) + weights // (fmt.packed_rows * fmt.packed_width)


def _check_split(asked: Asked, architecture: Architecture) -> None:
    if architecture.heads % asked.tp or architecture.kv_heads % asked.tp or architecture.layers % asked.pp:
        raise Refused(
            f"tp {asked.tp} and pp {asked.pp} do not divide {architecture.heads} heads, "
            f"{architecture.kv_heads} key-value heads and {architecture.layers} layers"
        )
    group = FORMATS[asked.format].group
    for name, (_, width) in architecture.linears().items():
        share = width // asked.tp if name.endswith(("o_proj", "down_proj")) else width
        if group and share % group:
            of = f" of a rank ({width} over tp {asked.tp})" if share != width else ""
            raise Refused(
                f"{asked.format} has groups of {group} weights, which do not divide the {share}{of} of {name}"
            )


def _quantised(source: Path, parameters: dict[str, Any], samples: list[list[int]]) -> tuple[Any, dict[str, str]]:
    """The model with ModelOpt's quantisers in it, and how far that moved its logits."""
    import modelopt.torch.quantization as mtq  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from torch_model import difference, exact, load, logits  # noqa: PLC0415

    exact()
    _without_compilers()
    started = time.monotonic()
    model = load(source, parameters["dtype"], parameters["device"])
    say(f"loaded in {time.monotonic() - started:.1f} s")
    before = logits(model, samples[:_COMPARED])

    def calibrate(quantised: Any) -> None:
        for batch in batches(samples, parameters["batch"]):
            quantised(torch.tensor(batch, device=parameters["device"]))

    started = time.monotonic()
    with torch.inference_mode():
        mtq.quantize(model, _config(parameters["format"], parameters["kv_cache"]), calibrate)
    say(f"quantised in {time.monotonic() - started:.1f} s")
    if parameters["format"] == "nvfp4" and parameters["device"] == "cpu":
        return model, {"not_measured": "ModelOpt computes with nvfp4 on a GPU only; files and scales are checked"}
    far, same = difference(logits(model, samples[:_COMPARED]), before)
    if not far <= float(parameters["largest_difference"]):
        raise Refused(
            f"quantising moved a logit by {far:.3f} of the largest, and {parameters['largest_difference']} is allowed"
        )
    return model, {"largest_relative": f"{far:.3f}", "same_token": f"{same:.3f}"}


def batches(samples: list[list[int]], size: int) -> Iterator[list[list[int]]]:
    """The samples in their order, up to `size` neighbours of one length at a time: nothing is padded."""
    batch: list[list[int]] = []
    for ids in samples:
        if batch and (len(batch) == size or len(ids) != len(batch[0])):
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _config(name: str, kv_cache: str) -> Any:
    import modelopt.torch.quantization as mtq  # noqa: PLC0415
    from modelopt.torch.quantization.utils import update_quant_cfg_with_kv_cache_quant  # noqa: PLC0415

    config = copy.deepcopy(getattr(mtq, _CONFIGS[name]))
    if kv_cache == "fp8":
        config = update_quant_cfg_with_kv_cache_quant(config, mtq.FP8_KV_CFG["quant_cfg"])
    return config


def _without_compilers() -> None:
    """ModelOpt compiles kernels where it finds nvcc. Its own code in torch is used instead, wherever it runs."""
    from modelopt.torch.quantization import extensions  # noqa: PLC0415

    for loader in (extensions.get_cuda_ext, extensions.get_cuda_ext_fp8, extensions.get_cuda_ext_mx):
        loader.extension = None


def _export(model: Any, architecture: Architecture, asked: Asked, dtype: str, out: Path) -> None:
    import torch  # noqa: PLC0415
    from modelopt.torch.export import export_hf_checkpoint, export_tensorrt_llm_checkpoint  # noqa: PLC0415
    from torch_model import DTYPES  # noqa: PLC0415

    started = time.monotonic()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, and that tensorrt_llm is not installed
        if asked.export == "hf":
            export_hf_checkpoint(model, export_dir=out)
        else:
            decoder = _DECODERS[architecture.kind]
            export_tensorrt_llm_checkpoint(model, decoder, DTYPES[dtype], out, asked.tp, asked.pp)
    say(f"exported in {time.monotonic() - started:.1f} s")
    if asked.export == "tensorrt_llm":
        _complete_config(out / "config.json", architecture)
    else:
        _complete_hf(out)


def _complete_config(path: Path, architecture: Architecture) -> None:
    """Say what the exporter leaves to defaults, which are those of other models than this one.

    Without TensorRT-LLM beside it, ModelOpt 0.47.0 leaves out what follows; ``QWenConfig`` (TensorRT-LLM at 0428c188)
    would take attention biases for granted and 10000 for the base of the rotary positions. The quantisation is named
    in full: every rank reads it from here and from nowhere else.
    """
    config = read_json(path)
    rope = architecture.rope
    known: dict[str, Any] = {
        "attn_bias": architecture.qkv_bias,
        "mlp_bias": False,
        "rotary_base": architecture.theta,
        "rotary_scaling": None if rope is None else {"rope_type": "llama3", **asdict(rope)},
        "num_key_value_heads": architecture.kv_heads,
        "head_size": architecture.head_dim,
    }
    if architecture.kind != "llama":
        known["qwen_type"] = architecture.kind
    for key, value in known.items():
        if config.setdefault(key, value) != value:
            raise Refused(f"config.json was exported with {key} {config[key]!r}, but the checkpoint has {value!r}")
    for key in ("kv_cache_quant_algo", "group_size"):
        config["quantization"].setdefault(key, None)
    config.pop("rank", None)  # that of the rank written last
    write_json(path, config)


def _complete_hf(out: Path) -> None:
    for name in ("config.json", "hf_quant_config.json"):
        config = read_json(out / name)
        if name == "hf_quant_config.json":
            config["quantization"].setdefault("kv_cache_quant_algo", None)
        write_json(out / name, config)


if __name__ == "__main__":
    run(build)
