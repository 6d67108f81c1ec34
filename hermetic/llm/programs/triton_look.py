"""Says what of Triton and TensorRT-LLM is where it is started, as JSON on standard output. Standard library only."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys

BACKENDS = "/opt/tritonserver/backends"  # Triton's own choice
LLMAPI = "/app/all_models/llmapi/tensorrt_llm/1/model.py"


def main() -> None:
    with open("/build/stage.json", encoding="utf-8") as stream:
        asked = json.load(stream)["parameters"]
    backend = os.path.join(asked["backends"] or BACKENDS, "tensorrtllm")
    needed = {asked["server"]: shutil.which(asked["server"]) is not None}
    if asked["kind"] == "tensorrt-llm":
        needed[backend] = os.path.isdir(backend)
    else:
        needed[LLMAPI] = os.path.isfile(LLMAPI)
    if asked["ranks"] > 1:
        needed[asked["mpirun"]] = shutil.which(asked["mpirun"]) is not None
    json.dump({"missing": [name for name, there in needed.items() if not there], "release": release()}, sys.stdout)


def release() -> str:
    """TensorRT-LLM's version by what pip left; importing it would want the GPU's driver."""
    try:
        return importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
