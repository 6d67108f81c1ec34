"""Your own Qwen2, Qwen3 or Llama checkpoint as an OpenVINO engine, built on a CPU.

$ hermetic realise recipes/openvino.py --set model=path/to/Qwen3-0.6B
$ hermetic run recipes/openvino.py --set model=path/to/Qwen3-0.6B "Why is the sky blue?"
"""

from pathlib import Path

from hermetic import Source, param
from hermetic.llm import openvino

model = param("model", type=Path, help="a checkpoint folder in Hugging Face layout")
mode = param("mode", "int4_sym", choices=("int4_sym", "int8_asym", "none"), help="how the weights are stored")
group = param("group_size", 64, choices=(32, 64, 128), help="weights that share a scale, for int4_sym")
prompt = param("prompt", "What is the capital of France?", help="what the smoke test asks")

# How far the logits may be from those of the original weights, relative to the largest. Trained models with four bits
# stay near a tenth, random weights come to seven tenths. (From the weights as stored it is a thousandth, always.)
far = {"none": "0.001", "int8_asym": "0.2"}.get(mode, "1.0")

weights = openvino.Checkpoint(model=Source(model))
quantised = openvino.Quantise(weights=weights, mode=mode, group_size=group)
engine = openvino.Engine(weights=weights, quantised=quantised)
manifest = openvino.Manifest(weights=weights, engine=engine)
smoke = openvino.Smoke(weights=weights, engine=engine, manifest=manifest, prompts=(prompt,), original_tolerance=far)

default = engine
