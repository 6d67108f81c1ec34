"""DeepSeek R1 for the PyTorch backend of TensorRT-LLM, in the FP8 it was trained in, for eight H200.

$ hermetic lock recipes/deepseek.py              asks the Hub; nobody has published the sizes of all its files
$ hermetic plan recipes/deepseek.py
$ hermetic realise 'recipes/deepseek.py#model'   fetches 163 shards and checks them; compiles nothing
$ hermetic realise recipes/deepseek.py           the same, a smoke test on eight H200, and what Triton loads

There is no engine to build: TensorRT-LLM has a script that converts DeepSeek V2 in BF16, and none for V3 and R1, which
only its PyTorch backend knows (examples/models/core/deepseek_v3 and contrib/deepseek_v2 in its repository). That one
loads the checkpoint itself, with the FP8 block scales as they are. Its README asks for eight H200 or sixteen H100.
"""

from hermetic import Gpu, Image, hub_snapshot, param
from hermetic.llm.pytorch import Manifest, PyTorchModel
from hermetic.llm.smoke import Smoke
from hermetic.llm.triton import triton_repository

RELEASE = "1.2.1"

image = Image(
    param(
        "image",
        f"nvcr.io/nvidia/tensorrt-llm/release:{RELEASE}"
        "@sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9",
    )
)
tp = param("tp", 8, help="GPUs that serve it")
product = param("gpu", "NVIDIA H200", help="what serves it, or none")

# Its code in Python is for transformers; TensorRT-LLM brings its own.
snapshot = hub_snapshot("deepseek-ai/DeepSeek-R1", allow=("*.json", "*.safetensors"))

# Attention is split over the ranks, and so are the 256 experts of a layer: each GPU holds 32 of them whole.
model = PyTorchModel(
    checkpoint=snapshot,
    release=RELEASE,
    runtime=image,
    runtime_gpu=None if product == "none" else Gpu(product, count=tp),
    tp=tp,
    quantisation="fp8",
    options={
        "moe_expert_parallel_size": param("ep", 8, help="GPUs that share the experts of a layer"),
        "max_batch_size": param("max_batch_size", 32),
        "max_num_tokens": 8192,
        "max_seq_len": param("max_seq_len", 16384),  # input and output together
        "enable_chunked_prefill": True,
        "kv_cache_config": {"free_gpu_memory_fraction": "0.8", "enable_block_reuse": True},
    },
)

smoke = Smoke(engine=model)

manifest = Manifest(engine=model, smoke=smoke)

repository = triton_repository(model, manifest=manifest)

default = repository
