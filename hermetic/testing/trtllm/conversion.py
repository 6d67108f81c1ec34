"""A STAND-IN for TensorRT-LLM's ``convert_checkpoint.py`` and ``quantize.py``: nothing of the weights survives.

It takes the options that ``options.json`` lists and writes what the real ones write: a ``config.json`` in the format
of checkpoints and one ``rank<N>.safetensors`` for each rank, whose one tensor is noise that follows from the model's
bytes, as large as the weights would be. Standard library only.
"""

import argparse
import hashlib
import json
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from tensorrt_llm.standin import clock, introduce, parse, read_tables
except ImportError:  # beside it, outside an image
    from standin import clock, introduce, parse, read_tables  # type: ignore[import-not-found]

#: Of quantize.py's formats: the algorithm that config.json names, and bits of a weight.
FORMATS = {
    "full_prec": (None, 16),
    "fp8": ("FP8", 8),
    "nvfp4": ("NVFP4", 4),
    "int8_sq": ("W8A8_SQ_PER_CHANNEL", 8),
    "int8_wo": ("W8A16", 8),
    "int4_wo": ("W4A16", 4),
    "int4_awq": ("W4A16_AWQ", 4),
    "w4a8_awq": ("W4A8_AWQ", 4),
}
WEIGHT_ONLY = {
    "int8": ("W8A16", 8),
    "int4": ("W4A16", 4),
    "int4_gptq": ("W4A16_GPTQ", 4),
    "int8_gptq": ("W8A16_GPTQ", 8),
}
CALIBRATED = {"fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq"}


def main(words: Sequence[str]) -> int:
    program, tables = Path(words[0]).name, read_tables()
    introduce(tables)
    options = parse(program, tables[program], words[1:])
    if program == "quantize.py":
        algorithm, bits = FORMATS[options.qformat]
        cache = {"fp8": "FP8", "int8": "INT8", None: None}[options.kv_cache_dtype]
        calibrate = options.qformat in CALIBRATED
    else:
        algorithm, bits = WEIGHT_ONLY[options.weight_only_precision] if options.use_weight_only else (None, 16)
        cache, calibrate = "INT8" if options.int8_kv_cache else None, options.smoothquant or options.int8_kv_cache
    if calibrate and not Path(options.calib_dataset).is_dir():
        print(f"ConnectionError: Couldn't reach {options.calib_dataset!r} on the Hub", file=sys.stderr)
        return 1
    started = time.monotonic()
    convert(options, {"quant_algo": algorithm, "kv_cache_quant_algo": cache}, bits)
    if program == "convert_checkpoint.py":
        print(f"Total time of converting checkpoints: {clock(started)}", flush=True)
    return 0


def convert(options: argparse.Namespace, quantization: dict[str, Any], bits: int) -> None:
    source, target = Path(options.model_dir), Path(options.output_dir)
    target.mkdir(parents=True, exist_ok=True)
    world = options.tp_size * options.pp_size * options.cp_size
    mapping = {"world_size": world, "tp_size": options.tp_size, "pp_size": options.pp_size, "cp_size": options.cp_size}
    seed, size = read_weights(source)
    for rank in range(world):
        count = size * bits // 16 // world
        write_noise(target / f"rank{rank}.safetensors", seed + rank.to_bytes(4, "little"), count)
    model = json.loads((source / "config.json").read_bytes())
    described = checkpoint_config(model, options.dtype) | {"mapping": mapping, "quantization": quantization}
    (target / "config.json").write_text(json.dumps(described, indent=4))


def write_noise(path: Path, seed: bytes, count: int) -> None:
    """A safetensors file whose one tensor is `count` bytes that follow from `seed`."""
    noise = hashlib.shake_128(seed).digest(count)
    head = json.dumps({"standin.noise": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + noise)


def checkpoint_config(model: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The fields of a checkpoint's ``config.json`` that follow from Hugging Face's."""
    kept = (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("hidden_act", "intermediate_size", "max_position_embeddings"),
    )
    found = {name: model[name] for name in kept if name in model}
    found["architecture"] = model.get("architectures", ["StandinForCausalLM"])[0]
    found["dtype"] = model.get("torch_dtype", model.get("dtype", "float16")) if dtype == "auto" else dtype
    return found | {"norm_epsilon": model.get("rms_norm_eps", 1e-5), "logits_dtype": "float32"}


def read_weights(folder: Path) -> tuple[bytes, int]:
    """What all tensors follow from, and their bytes."""
    digest, size = hashlib.blake2b(), 0
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        digest.update(content)
        size += len(content)
    return digest.digest(), size


if __name__ == "__main__":
    sys.exit(main(sys.argv))
