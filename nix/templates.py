"""What `mkEngine`, `mkTritonRepo` and the command itself are made of, in the one place where stages are defined.

$ hermetic nix export nix/templates.py

nix/lib.nix takes the exported stages and puts a model, an engine and options in their places.
"""

from hermetic import Image, PythonEnv, Script, Source
from hermetic.llm import tensorrt_llm, triton
from hermetic.llm.convert import convert

RELEASE = "1.2.1"  # the last stable TensorRT-LLM that builds engines

# As recipes/qwen3.py says where it comes from.
image = Image(
    f"nvcr.io/nvidia/tensorrt-llm/release:{RELEASE}"
    "@sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9"
)
model = Source("placeholder/model")

engine = tensorrt_llm.Engine(
    environment=image,
    release=RELEASE,
    builder="trtllm-bench",
    model="placeholder",
    checkpoint=model,
    tokenizer=model,
    options={"max_batch_size": 8, "max_seq_len": 16384, "max_num_tokens": 8192, "tp_size": 1, "pp_size": 1},
)

# trtllm-bench has no options for experts: convert_checkpoint.py deals them to the ranks, and trtllm-build builds that.
expert_checkpoint = convert(model, environment=image, release=RELEASE)
expert_engine = tensorrt_llm.Engine(
    environment=image,
    release=RELEASE,
    checkpoint=expert_checkpoint,
    tokenizer=model,
    options={
        "gemm_plugin": "auto",
        "max_batch_size": 8,
        "max_input_len": 16384,
        "max_seq_len": 16384,
        "max_num_tokens": 8192,
    },
)

repository = triton.triton_repository(Source("placeholder/engine"))

# The packages that the command itself needs; the stage says whether they are whole.
command = Script("placeholder/command.py", environment=PythonEnv("../requirements/base.txt"))
