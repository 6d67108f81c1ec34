"""A real LLM engine from a bare machine: a tiny Qwen3, quantised to four bits, for OpenVINO.

$ hermetic realise recipes/tiny_qwen3.py
$ hermetic run recipes/tiny_qwen3.py "What is a store path?"
"""

from hermetic import Source
from hermetic.llm import openvino

# The checkpoint lies beside this file: five megabytes, in Hugging Face layout, checked before anything is built.
weights = openvino.Checkpoint(model=Source("tiny_qwen3/model"))

# Four bits a weight. AWQ looks at 64 short chats and spares the weights that matter most.
quantised = openvino.Quantise(
    weights=weights,
    mode="int4_sym",
    group_size=64,
    awq=True,
    calibration=Source("tiny_qwen3/calibration.txt"),
    samples=64,
)

# What a server loads: graph, tokenizer, chat template and settings in one folder.
engine = openvino.Engine(weights=weights, quantised=quantised, generation={"max_new_tokens": 128})

# Every file with its hashes, and how it came about.
manifest = openvino.Manifest(weights=weights, engine=engine)

# The engine counts as built only if it answers as it should and computes what NumPy computes.
smoke = openvino.Smoke(
    weights=weights,
    engine=engine,
    manifest=manifest,
    prompts=("What is hermetic?", "How do I build an engine?"),
    golden={
        "What is a store path?": "A store path is an immutable folder that holds the result of one stage. "
        "Its name starts with the key, so the same inputs always lead to the same path."
    },
    original_tolerance="0.15",
)

default = engine
