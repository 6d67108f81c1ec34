"""The tiny engine behind Triton, on an ordinary processor.

$ hermetic serve triton recipes/tiny_serve.py
$ curl localhost:8000/v2/models/ensemble/generate -d '{"text_input": "A store path is", "max_tokens": 20}'
"""

# All of them: a stage is called what it is called in the recipe that is realised.
from tiny_qwen3 import engine, manifest, quantised, weights  # noqa: F401

from hermetic.llm.triton import triton_repository

# What Triton loads, and what it promises to whom it serves. The manifest's digests are those that a start insists on.
repository = triton_repository(engine, manifest=manifest, max_batch_size=16, bls=True)

default = repository
