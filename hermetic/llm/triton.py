"""Triton model repositories: what an engine is served with.

::

    repository = triton_repository(engine, manifest=manifest, max_batch_size=16)

``hermetic serve triton recipe.py#repository`` starts the server.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

from pydantic import Field, InstanceOf

from hermetic.recipe import Environment, Image, PythonEnv, Source, Stage

__all__ = ["Repository", "server_environment", "triton_repository"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]

_LOCKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locks")


def server_environment(python: str = "") -> PythonEnv:
    """A Triton server that needs no GPU, with OpenVINO for its python backend."""
    return PythonEnv(os.path.join(_LOCKS, "triton-openvino.txt"), python=python)


class Repository(Stage):
    """``repository/``, the models that Triton loads for `engine`, and ``deployment.json``, what they promise.

    How an engine is served follows from its kind: `openvino`, `tensorrt-llm` or `tensorrt-llm-pytorch`; a
    `hermetic.llm.whisper.Whisper` takes sound.

    `tokenizer` is a folder with ``tokenizer.json``; without it the engine's own is taken. With `manifest`, its digests
    are those that the server's start insists on; without it the engine is read once more for them. With `smoke`, a
    smoke test of the engine, there is no repository of one that fails; a manifest that was made so says the same.

    `max_seq_len` is the longest sequence in tokens, prompt and answer together, and `max_batch_size` how many are
    computed at once; 0 is all that the engine was made for (64 sequences for the kind `openvino`), and more is refused.
    `kv_cache_reuse` lets prompts with the same beginning share their keys and values, for which the kind
    `openvino` has `kv_cache_gib` GiB of memory.

    `bls` adds the model `tensorrt_llm_bls`, which streams text in whole characters.

    For the kind `tensorrt-llm`: `queue_delay_us` is how long the first of a batch waits for others in µs, `queue_size`
    how many requests may wait (0: any number); `guided_decoding` is with xgrammar, from release 0.19 on; `parameters`
    are further ones of the model `tensorrt_llm`, checked against those that the engine's release has.

    `server` is the image with the Triton that serves it, for the kinds of TensorRT-LLM; it changes nothing here.
    """

    kind: ClassVar[str] = "triton.repository"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "triton_repository.py",
        "file_digests.py",
        "stage_file.py",
        "triton_bls_model.py",
        "triton_checks.py",
        "triton_config.py",
        "triton_detokenize_model.py",
        "triton_kinds.py",
        "triton_llmapi_model.py",
        "triton_openvino.py",
        "triton_openvino_model.py",
        "triton_tensorrt_llm.py",
        "triton_tensors.py",
        "triton_tokenize_model.py",
        "triton_whisper.py",
        "triton_whisper_model.py",
        "whisper_sound.py",
        "whisper_words.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=server_environment)
    engine: Input
    tokenizer: Input | None = None
    manifest: Input | None = None
    smoke: Input | None = None
    server: InstanceOf[Image] | None = None
    max_seq_len: Annotated[int, Field(ge=0)] = 0
    max_batch_size: Annotated[int, Field(ge=0)] = 0
    kv_cache_gib: Positive = 1
    kv_cache_reuse: bool = True
    chunked_context: bool = True
    guided_decoding: bool = True
    bls: bool = False
    queue_delay_us: Annotated[int, Field(ge=0)] = 0
    queue_size: Annotated[int, Field(ge=0)] = 0
    parameters: dict[str, str] = Field(default_factory=dict)

    @property
    def run_environment(self) -> Environment:
        """What the server runs in."""
        return self.server if self.server is not None else server_environment()

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the inputs that are not given and the image that the server runs in; with what an engine is
        told when it runs: how it drafts tokens, or the language that it hears.
        """
        found = super().parameters_in_full().items()
        told = self.engine.run_parameters() if isinstance(self.engine, Stage) else {}
        return {name: value for name, value in found if value is not None and name != "server"} | told


def triton_repository(engine: Stage | Source, tokenizer: Stage | Source | None = None, **options: Any) -> Repository:
    """The repository of `engine`, for recipes; `options` are the other fields of `Repository`."""
    return Repository(engine=engine, tokenizer=tokenizer, **options)
