"""A STAND-IN for TensorRT-LLM's ``whisper/convert_checkpoint.py``: nothing of the weights survives.

It takes the real one's options (NVIDIA/TensorRT-LLM at 2a9abd9536aa) and writes what that writes: a checkpoint of one
rank in ``encoder`` and one in ``decoder``, with noise that follows from the weights' bytes. Standard library only.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

try:
    from tensorrt_llm.conversion import write_noise
    from tensorrt_llm.standin import clock, introduce, read_tables
except ImportError:  # beside it, outside an image
    from conversion import write_noise  # type: ignore[import-not-found]
    from standin import clock, introduce, read_tables  # type: ignore[import-not-found]

ALGORITHMS = {"int8": ("W8A16", 8), "int4": ("W4A16", 4)}
#: Ends of the names of models with 128 mel bands and a language more.
WIDE = ("large-v3", "large-v3-turbo")
ARCHITECTURES = {"encoder": "WhisperEncoder", "decoder": "DecoderModel"}


def main(words: Sequence[str]) -> int:
    introduce(read_tables())
    parser = argparse.ArgumentParser(prog=words[0])
    parser.add_argument("--model_dir", default="assets")
    parser.add_argument("--quant_ckpt_path")
    parser.add_argument("--model_name", default="large-v3")
    parser.add_argument("--dtype", default="float16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--logits_dtype", default="float16", choices=["float16", "float32"])
    parser.add_argument("--output_dir", default="tllm_checkpoint")
    parser.add_argument("--use_weight_only", action="store_true")
    parser.add_argument("--weight_only_precision", const="int8", nargs="?", default="int8", choices=["int8", "int4"])
    options = parser.parse_args(words[1:])
    started = time.monotonic()
    weights = (Path(options.model_dir) / f"{options.model_name}.pt").read_bytes()
    algorithm, bits = ALGORITHMS[options.weight_only_precision] if options.use_weight_only else (None, 16)
    size = 51864 if options.model_name.endswith(".en") else 51865 + options.model_name.endswith(WIDE)
    for half, architecture in ARCHITECTURES.items():
        folder = Path(options.output_dir) / half
        folder.mkdir(parents=True)
        described = {"architecture": architecture, "dtype": options.dtype, "quantization": {"quant_algo": algorithm}}
        described["vocab_size"] = size
        if half == "encoder":
            described["n_mels"] = 128 if options.model_name.endswith(WIDE) else 80
        (folder / "config.json").write_text(json.dumps(described, indent=4))
        seed = hashlib.blake2b(half.encode() + weights).digest()
        write_noise(folder / "rank0.safetensors", seed, len(weights) * bits // 32)
    print(f"Total time of converting checkpoints: {clock(started)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
