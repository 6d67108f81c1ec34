"""Mistral 7B Instruct v0.3 for TensorRT-LLM with eight-bit weights, for one H100: no samples, no calibration.

$ hermetic lock recipes/mistral.py               asks the Hub what nobody has published in full
$ hermetic plan recipes/mistral.py --commands
$ hermetic realise recipes/mistral.py            needs podman or bubblewrap, and an NVIDIA H100

The snapshot is unresolved in the lock file: its weights' sha256 are public, the size of one small file is not.
The image is pinned here as in recipes/qwen3.py.
"""

from hermetic import Gpu, Image, hub_snapshot, param
from hermetic.llm import tensorrt_llm
from hermetic.llm.convert import convert
from hermetic.llm.smoke import Smoke
from hermetic.llm.triton import triton_repository

RELEASE = "1.2.1"  # the last stable TensorRT-LLM that builds engines

image = Image(
    param(
        "image",
        f"nvcr.io/nvidia/tensorrt-llm/release:{RELEASE}"
        "@sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9",
    )
)
product = param("gpu", "NVIDIA H100 80GB HBM3", help="what builds it, and so what serves it; or none")
gpu = None if product == "none" else Gpu(product)
max_batch_size = param("max_batch_size", 32)
max_input_len = param("max_input_len", 8192)
max_seq_len = param("max_seq_len", 9216)  # input and output together

# The repository holds the same weights twice: consolidated.safetensors is Mistral's own layout.
snapshot = hub_snapshot(
    "mistralai/Mistral-7B-Instruct-v0.3",
    allow=("*.json", "*.safetensors", "tokenizer.model"),
    ignore=("consolidated.safetensors", "params.json"),
)

# Mistral is converted by Llama's script, which reads the architecture itself. Weights are rounded to eight bits as they
# are; activations and cache stay in 16.
weights = convert(snapshot, environment=image, gpu=gpu, release=RELEASE, dtype="bfloat16", weight_only="int8")

engine = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=weights,
    tokenizer=snapshot,
    quantisation="W8A16",
    options={
        "gemm_plugin": "auto",
        "max_batch_size": max_batch_size,
        "max_input_len": max_input_len,
        "max_seq_len": max_seq_len,
    },
)

smoke = Smoke(engine=engine)
manifest = tensorrt_llm.Manifest(engine=engine, smoke=smoke)

repository = triton_repository(engine, manifest=manifest, bls=True)

default = repository
