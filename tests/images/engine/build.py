"""Becomes the image's builder; what the STAND-IN does wrong is a parameter."""

import json
import os
import sys
from pathlib import Path

TOOLS = {
    "trtllm-build": "trtllm-build --checkpoint_dir /build/in/checkpoint --output_dir /build/out --max_batch_size 8",
    "trtllm-bench": "mpirun -np 1 --allow-run-as-root python -m tensorrt_llm.commands.bench --model qwen3"
    " --model_path /build/in/checkpoint --workspace /build/tmp build --quantization W4A16 --max_seq_len 128 -tp 2",
    "wrong": "trtllm-build --checkpoint-dir /build/in/checkpoint",
}
parameters = json.loads(Path("/build/stage.json").read_text())["parameters"]
os.environ |= {
    "STANDIN_BEHAVIOUR": parameters["behaviour"],
    "STANDIN_BYTES": "200000",
    "STANDIN_CHUNKS": "3",
    "STANDIN_MARK": "in-an-image",
}
os.environ["STANDIN_PAUSE"] = "0.4" if parameters["behaviour"] == "hang" else "0.05"  # longer than the harvest settles
words = TOOLS[parameters["tool"]].split()
sys.stdout.flush()
os.execvp(words[0], words)
