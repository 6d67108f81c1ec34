"""Runs the image's own conversion script."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = "/app/tensorrt_llm/examples/models/core/qwen/convert_checkpoint.py"
ranks = json.loads(Path("/build/stage.json").read_text())["parameters"]["ranks"]
words = ["--model_dir", "/build/in/model", "--output_dir", "/build/out", "--tp_size", str(ranks)]
words += ["--use_weight_only", "--weight_only_precision", "int4"]
sys.exit(subprocess.run([sys.executable, SCRIPT, *words], check=False).returncode)
