"""A LoRA adapter on Llama 3.1 8B Instruct: merged into its base, or applied by the engine at run time; for one H100.

$ hermetic lock recipes/lora_llama.py            asks the Hub for the adapter; the base is locked
$ hermetic realise recipes/lora_llama.py         one checkpoint, one engine: nothing to choose when it serves
$ hermetic realise 'recipes/lora_llama.py#lora_repository'    the base with LoRA in it, adapters beside it

The adapter is NVIDIA's guard of topics (rank 8, all seven matrices of a layer); --set adapter=OWNER/NAME takes another
one of this base. Merging runs on the processor and needs CPython 3.11, an index with the CPU build of torch
(docs/models.md) and 72 GiB of memory. Meta's licence is accepted here for the base as in recipes/llama.py, the
adapter's by --set accept_adapter=NAME.
"""

from hermetic import Gpu, Image, Source, hub_snapshot, param
from hermetic.llm import tensorrt_llm
from hermetic.llm.convert import convert
from hermetic.llm.lora import adapters, merge_lora
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
gpu = None if product == "none" else Gpu(product)
limits = {"max_batch_size": param("max_batch_size", 32), "max_input_len": 4096, "max_seq_len": 5120}

base = hub_snapshot(
    "meta-llama/Llama-3.1-8B-Instruct",
    allow=("*.json", "*.safetensors"),
    ignore="original/",
    accept_licence="llama3.1",
)
adapter = hub_snapshot(
    param("adapter", "nvidia/llama-3.1-nemoguard-8b-topic-control", help="a LoRA adapter of this base, on the Hub"),
    allow=("adapter_config.json", "adapter_model.safetensors"),
    accept_licence=param("accept_adapter", "", help="the licence of the adapter, as the Hub calls it"),
    check=False,
)

# Merged: the result is a checkpoint like any other, quantised with samples of what the merged model will be asked.
merged = merge_lora(base, adapter, "bfloat16", memory_mb=param("merge_memory_mb", 73728))
samples = calibration(
    Source(param("calibration", "tiny_qwen3/calibration.txt")), count=64, column="", max_length=512, seed=1234
)
weights = tensorrt_llm.Quantise(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    snapshot=merged,
    calibration=samples,
    format="fp8",
    kv_cache="fp8",
)
engine = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=weights,
    tokenizer=base,
    quantisation="FP8",
    options={"use_paged_context_fmha": True, **limits},
)
smoke = Smoke(engine=engine)
manifest = tensorrt_llm.Manifest(engine=engine, calibration=samples, smoke=smoke)
repository = triton_repository(engine, manifest=manifest)

# At run time: the base in 16 bits, with room for adapters of rank 8 and less. Which one applies, a request says.
# A new adapter is checked and laid out in seconds, and the engine stays. (adapters=tuned, without lora_target_modules,
# would give the engine its adapters for good.)
lora_weights = convert(base, environment=image, gpu=gpu, release=RELEASE, dtype="bfloat16")
lora_engine = tensorrt_llm.Engine(
    environment=image,
    gpu=gpu,
    release=RELEASE,
    checkpoint=lora_weights,
    tokenizer=base,
    options={
        "gemm_plugin": "auto",
        "lora_plugin": "auto",
        "lora_target_modules": ["attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"],
        "max_lora_rank": 8,
        "use_paged_context_fmha": True,
        **limits,
    },
)
tuned = adapters(base, {"topic-control": adapter})
lora_manifest = tensorrt_llm.Manifest(engine=lora_engine)
lora_repository = triton_repository(lora_engine, manifest=lora_manifest)

default = repository
