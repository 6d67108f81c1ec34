"""Triton model repositories: what an engine is served with.

::

    repository = triton_repository(engine, manifest=manifest, max_batch_size=16)

``hermetic serve triton recipe.py#repository`` starts the server.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

from pydantic import Field, InstanceOf

from hermetic.recipe import Environment, PythonEnv, Source, Stage

__all__ = ["Repository", "server_environment", "triton_repository"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]

_LOCKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locks")


def server_environment(python: str = "") -> PythonEnv:
    """A Triton server that needs no GPU, with OpenVINO for its python backend."""
    return PythonEnv(os.path.join(_LOCKS, "triton-openvino.txt"), python=python)


class Repository(Stage):
    """``repository/``, the models that Triton loads for `engine`, and ``deployment.json``, what they promise.

    `tokenizer` is a folder with ``tokenizer.json``; without it the engine's own is taken. With `manifest`, its digests
    are those that the server's start insists on; without it the engine is read once more for them.

    `max_seq_len` is the longest sequence in tokens, prompt and answer together (0: what the model was made for),
    `max_batch_size` how many are computed at once, `kv_cache_gib` the memory for their keys and values in GiB, and
    `kv_cache_reuse` lets prompts with the same beginning share them.
    """

    kind: ClassVar[str] = "triton.repository"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "triton_repository.py",
        "file_digests.py",
        "stage_file.py",
        "triton_config.py",
        "triton_detokenize_model.py",
        "triton_openvino.py",
        "triton_openvino_model.py",
        "triton_tensors.py",
        "triton_tokenize_model.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=server_environment)
    engine: Input
    tokenizer: Input | None = None
    manifest: Input | None = None
    max_seq_len: Annotated[int, Field(ge=0)] = 0
    max_batch_size: Positive = 64
    kv_cache_gib: Positive = 1
    kv_cache_reuse: bool = True

    @property
    def run_environment(self) -> Environment:
        """What the server runs in."""
        return server_environment()

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the inputs that are not given."""
        return {name: value for name, value in super().parameters_in_full().items() if value is not None}


def triton_repository(engine: Stage | Source, tokenizer: Stage | Source | None = None, **options: Any) -> Repository:
    """The repository of `engine`, for recipes; `options` are the other fields of `Repository`."""
    return Repository(engine=engine, tokenizer=tokenizer, **options)
