"""Qwen3-32B for TensorRT-LLM, four bits a weight: snapshot, calibration, quantisation, engine, smoke test, manifest.

$ hermetic plan recipes/qwen3.py --commands      what would run, offline
$ hermetic lint recipes/qwen3.py
$ hermetic realise recipes/qwen3.py              needs podman or bubblewrap, and the GPU that it names
$ hermetic run 'recipes/qwen3.py#engine' "What is a store path?"

The GPU is declared, so keys can be computed without one. --set gpu=none leaves it out, for stand-ins that need none.

The lock file beside it pins the snapshot's commit and every file's sha256. The image is pinned here, by the digest that
cfregly/performance-iq-sdk (at 7d4d8d86, ops/serving-producers/run-nvidia-e2e.sh) publishes for the tag; this project
could not ask the registry itself. `hermetic lock --update` asks it.
"""

from hermetic import Gpu, Image, Source, hub_snapshot, param
from hermetic.llm import tensorrt_llm
from hermetic.llm.quantise import calibration
from hermetic.llm.smoke import Smoke

RELEASE = "1.2.1"  # the last stable TensorRT-LLM that builds engines

image = Image(
    param(
        "image",
        f"nvcr.io/nvidia/tensorrt-llm/release:{RELEASE}"
        "@sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9",
    )
)
product = param("gpu", "NVIDIA H100 80GB HBM3", help="as nvidia-smi -L prints it, or none")
gpu = None if product == "none" else Gpu(product)
# For the engine with NVFP4. nvidia-smi shows 32607 MiB of it (noonghunna/club-3090, issue 617).
blackwell = None if product == "none" else Gpu("NVIDIA GeForce RTX 5090", memory_gib=32, sm="12.0")

max_batch_size = param("max_batch_size", 4)
max_input_len = param("max_input_len", 4096)
max_seq_len = param("max_seq_len", 5120)  # input and output together

snapshot = hub_snapshot("Qwen/Qwen3-32B", revision="main", ignore=(".gitattributes", "LICENSE", "README.md"))

# Take samples of what your engine will be asked. The text that is here, samples between blank lines, only shows how.
samples = calibration(
    Source(param("calibration", "tiny_qwen3/calibration.txt")), count=64, column="", max_length=512, seed=1234
)

# W4A8 AWQ: four-bit weights, FP8 activations. The cache stays in 16 bits: paged-context attention over an FP8 cache
# works with FP8 weights and activations only, and the engine needs it to reuse blocks and to split long prompts.
weights = tensorrt_llm.Quantise(
    environment=image, gpu=gpu, release=RELEASE, snapshot=snapshot, calibration=samples, format="w4a8_awq"
)

engine = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=weights,
    tokenizer=snapshot,
    quantisation="W4A8_AWQ",
    options={
        "kv_cache_type": "paged",
        "use_paged_context_fmha": True,
        "tokens_per_block": 32,
        "max_batch_size": max_batch_size,
        "max_input_len": max_input_len,
        "max_seq_len": max_seq_len,
    },
)

# The engine counts as built, and has a manifest, only if it answers as it should. Add golden answers once you have one.
smoke = Smoke(engine=engine, prompts=("What is the capital of France?", "What is 2+2?"))
manifest = tensorrt_llm.Manifest(engine=engine, calibration=samples, smoke=smoke)

# The same for Blackwell: NVFP4 weights and activations, and the FP8 cache that goes with them.
nvfp4_weights = tensorrt_llm.Quantise(
    environment=image,
    gpu=blackwell,
    release=RELEASE,
    snapshot=snapshot,
    calibration=samples,
    format="nvfp4",
    kv_cache="fp8",
)
nvfp4_engine = tensorrt_llm.Engine(
    environment=image,
    gpu=blackwell,
    release=RELEASE,
    checkpoint=nvfp4_weights,
    tokenizer=snapshot,
    quantisation="NVFP4",
    options={"max_batch_size": 8, "max_seq_len": 16384, "max_num_tokens": 8192},
)
nvfp4_smoke = Smoke(engine=nvfp4_engine, prompts=("What is the capital of France?", "What is 2+2?"))
nvfp4_manifest = tensorrt_llm.Manifest(engine=nvfp4_engine, calibration=samples, smoke=nvfp4_smoke)

default = manifest
