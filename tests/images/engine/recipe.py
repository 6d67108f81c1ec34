"""A checkpoint and an engine in one image; the builder writes a good engine and then, like the real one, never exits.

The image is hermetic's STAND-IN for TensorRT-LLM (`hermetic.testing.trtllm.image`). With the real one only the name of
the image, the model and the closing line change.
"""

from hermetic import TOKENIZER, Harvest, Image, LogLine, Script, Source, param

tensorrt_llm = Image(param("image", "registry.example.com/nvidia/tensorrt-llm:standin-1.2.1"))
model = Source("model")

checkpoint = Script(
    "convert.py",
    environment=tensorrt_llm,
    inputs={"model": model},
    parameters={"ranks": 2},
)

engine = Script(
    "build.py",
    environment=tensorrt_llm,
    inputs={"checkpoint": checkpoint, "model": model},
    parameters={"behaviour": param("behaviour", "hang"), "tool": param("tool", "trtllm-build")},
    harvest=Harvest(
        artifacts=("config.json", "rank*.engine"),
        # trtllm-bench leaves its engine in a folder of its own while it hangs, and elsewhere when it ends.
        folders=("out", "tmp/*-llm-workspace/tmp.engine", "tmp/qwen3/tp_2_pp_1"),
        complete=LogLine(r"Engine serialized\. Total time: "),
        take={"model": TOKENIZER},
        config={"pretrained_config.quantization.quant_algo": "W4A16"},
        settle="0.3",
        timeout=param("timeout", 600),
    ),
)
