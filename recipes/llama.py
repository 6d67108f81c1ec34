"""Llama 3.1 8B Instruct for TensorRT-LLM in FP8, one engine over two H100: snapshot, calibration, engine, repository.

$ hermetic plan recipes/llama.py --commands      what would run, offline
$ hermetic lint recipes/llama.py
$ hermetic realise recipes/llama.py              needs podman or bubblewrap, and an NVIDIA H100; a token of the Hub

Meta's licence is the recipe's to accept: it is the word in `accept_licence`, and the Hub gives the files to those
only who have accepted it there too. The lock file beside it cites commit, sizes and sha256; the image is pinned here as
in recipes/qwen3.py.
"""

from hermetic import Gpu, Image, Source, hub_snapshot, param
from hermetic.llm import tensorrt_llm
from hermetic.llm.quantise import calibration
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
tp = param("tp", 2, help="ranks that share a layer, and GPUs that serve it")
gpu = None if product == "none" else Gpu(product)
serving = None if product == "none" else Gpu(product, count=tp)
max_batch_size = param("max_batch_size", 64)
max_input_len = param("max_input_len", 8192)
max_seq_len = param("max_seq_len", 9216)  # input and output together

snapshot = hub_snapshot(
    "meta-llama/Llama-3.1-8B-Instruct",
    allow=("*.json", "*.safetensors"),
    ignore="original/",
    accept_licence="llama3.1",
)

# Take samples of what your engine will be asked. The text that is here, samples between blank lines, only shows how.
samples = calibration(
    Source(param("calibration", "tiny_qwen3/calibration.txt")), count=64, column="", max_length=512, seed=1234
)

# One GPU quantises and builds for all ranks. FP8 weights and activations go with an FP8 cache and with paged context
# attention, which the engine needs to reuse blocks and to split long prompts.
weights = tensorrt_llm.Quantise(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    snapshot=snapshot,
    calibration=samples,
    format="fp8",
    kv_cache="fp8",
    tp=tp,
)

engine = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=weights,
    tokenizer=snapshot,
    quantisation="FP8",
    options={
        "use_paged_context_fmha": True,
        "max_batch_size": max_batch_size,
        "max_input_len": max_input_len,
        "max_seq_len": max_seq_len,
    },
)

# It is asked on as many GPUs as it has ranks; without an answer there is no manifest and nothing to serve.
smoke = Smoke(engine=engine, gpu=serving, prompts=("What is the capital of France?",))
manifest = tensorrt_llm.Manifest(engine=engine, calibration=samples, smoke=smoke)

# What Triton loads: four models and BLS, and the promises that a start insists on.
repository = triton_repository(engine, manifest=manifest, bls=True, queue_delay_us=2500)

default = repository
