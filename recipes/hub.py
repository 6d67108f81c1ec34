"""A model from a Hugging Face Hub as an OpenVINO engine, built on a CPU.

$ hermetic lock recipes/hub.py          # asks the Hub once: commit, files, sizes, sha256
$ hermetic realise recipes/hub.py
$ hermetic run recipes/hub.py "Why is the sky blue?"
"""

from hermetic import hub_snapshot, param
from hermetic.llm import openvino

repository = param("repository", "Qwen/Qwen3-0.6B", help="a Qwen2, Qwen3 or Llama model")
revision = param("revision", "main", help="a branch, a tag or a commit")
licence = param("accept_licence", "", help="the licence's name, if the model has one of its own")

# Weights and tokenizer; a repository may hold the same weights in other formats too.
model = hub_snapshot(repository, revision=revision, allow=("*.json", "*.safetensors"), accept_licence=licence)

weights = openvino.Checkpoint(model=model)
quantised = openvino.Quantise(weights=weights, mode="int8_asym")
engine = openvino.Engine(weights=weights, quantised=quantised)
manifest = openvino.Manifest(weights=weights, engine=engine)
smoke = openvino.Smoke(weights=weights, engine=engine, manifest=manifest, prompts=("Hello",), original_tolerance="0.2")

default = engine
