"""A checkpoint quantised by NVIDIA ModelOpt on the processor, for TensorRT-LLM's PyTorch backend or for trtllm-build.

$ hermetic realise recipes/quantised_qwen3.py
$ hermetic realise recipes/quantised_qwen3.py --set model=path/to/Qwen3-0.6B --set adapter=path/to/adapter
$ hermetic realise recipes/quantised_qwen3.py#ranks --set format=fp8 --set tp=2

The CPU build of torch must be offered by the configured package indexes; docs/models.md says how. CPython 3.11.
"""

from pathlib import Path

from hermetic import Source, param
from hermetic.llm.lora import merge_lora
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.quantise import Target, calibration, quantise

model = param("model", Path("tiny_qwen3/model"), type=Path, help="a checkpoint folder in Hugging Face layout")
adapter = param("adapter", "", help="the folder of a LoRA adapter to merge first")
data = param("data", Path("tiny_qwen3/calibration.txt"), type=Path, help="a data set: a file, or a folder with splits")
column = param("column", "", help="its text column; empty for plain text")
format = param("format", "w4a8_awq", choices=("w4a8_awq", "int4_awq", "fp8", "nvfp4", "int8_sq"))  # noqa: A001
cache = param("kv_cache", "fp8", choices=("none", "fp8"), help="how keys and values will be kept")
sm = param("sm", "9.0", help="compute capability of the GPU that will serve it")
tp = param("tp", 1, help="ranks that share a layer")

base = Source(model)
checkpoint = merge_lora(base, Source(adapter), "bfloat16") if adapter else base

# The samples are chosen once; whoever changes one that was chosen quantises anew.
samples = calibration(Source(data), count=16, column=column, max_length=128, seed=1)

# One checkpoint and what a server must know, for TensorRT-LLM's PyTorch backend.
quantised = quantise(checkpoint, format, calibration=samples, kv_cache=cache, target=Target("tensorrt-llm-pytorch", sm))
served = PyTorchModel(checkpoint=quantised, release="1.2.1", tp=tp, options={"max_batch_size": 8})

# The same for trtllm-build, split over the ranks. Engines of W4A8 with an FP8 cache need paged context attention off.
engines = Target("tensorrt-llm", sm, paged_context_fmha=format == "fp8")
ranks = quantise(checkpoint, format, calibration=samples, kv_cache=cache, export="tensorrt_llm", tp=tp, target=engines)

default = served
