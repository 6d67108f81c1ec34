"""A Qwen3 checkpoint compiled by PyTorch's AOTInductor, for one GPU product or, with gpu=none, for the processor.

$ hermetic realise recipes/aoti_qwen3.py --set torch=/opt/torch/.venv --set gpu="NVIDIA H200"
$ hermetic run recipes/aoti_qwen3.py#engine "What is a store path?" --set torch=/opt/torch/.venv --set gpu="NVIDIA H200"

`torch` is a virtual environment with torch, numpy and tokenizers, on a machine with g++. The GPU is declared, so the
keys can be computed on a machine without one.
"""

from pathlib import Path

from hermetic import Gpu, Source, param
from hermetic.llm import aoti

torch = param("torch", type=Path, help="a virtual environment with torch, numpy and tokenizers")
product = param("gpu", "NVIDIA H200", help="as nvidia-smi -L prints it, or none")
model = param("model", Path("tiny_qwen3/model"), type=Path, help="a checkpoint folder in Hugging Face layout")
dtype = param("dtype", "float32", choices=("bfloat16", "float32"), help="what the engine computes in")
tuning = param("tuning", "default", choices=("default", "max"), help="max measures matrix products too")
longest = param("longest", 512, help="tokens of prompt and answer together")

gpu = None if product == "none" else Gpu(product)
env = aoti.toolchain(torch)

weights = aoti.Checkpoint(model=Source(model), environment=env)

# Kernels are measured once; what was chosen is kept and used by every later build of the engine.
tuned = aoti.Tune(model=weights, gpu=gpu, environment=env, dtype=dtype, longest=longest, tuning=tuning)
engine = aoti.Engine(model=weights, tuned=tuned, gpu=gpu, environment=env, dtype=dtype, longest=longest, tuning=tuning)

# The engine counts as built only if it computes what the same model computes eagerly.
smoke = aoti.Smoke(
    model=weights,
    engine=engine,
    gpu=gpu,
    environment=env,
    prompts=("What is hermetic?", "What is a store path?"),
    tolerance={"float32": "0.001", "bfloat16": "0.05"}[dtype],
    reference_tolerance={"float32": "0.001", "bfloat16": "0.1"}[dtype],
)

default = engine
