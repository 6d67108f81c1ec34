"""Whisper for TensorRT-LLM: one file of OpenAI's weights becomes two checkpoints, and each of them an engine.

::

    weights = remote("https://openaipublic.azureedge.net/main/whisper/models/e5b1…/large-v3.pt")
    halves = ConvertWhisper(environment=image, release="1.2.1", weights=weights, model="large-v3", weight_only="int8")
    encoder = Half(checkpoint=halves, half="encoder")
    decoder = Half(checkpoint=halves, half="decoder")

Each half is what `hermetic.llm.tensorrt_llm.Engine` takes. `recipes/whisper.py` has the options of both engines.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, InstanceOf

from hermetic.llm.environments import files_environment
from hermetic.recipe import Environment, Source, Stage

__all__ = ["ConvertWhisper", "Half"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]

#: What the script takes as ``--model_name``: NVIDIA/TensorRT-LLM, examples/models/core/whisper at 2a9abd9536aa.
Model = Literal[
    "large-v3-turbo", "large-v3", "large-v2", "medium", "small", "base", "tiny",
    "medium.en", "small.en", "base.en", "tiny.en",
    "distil-large-v3", "distil-large-v2", "distil-medium.en", "distil-small.en",
]  # fmt: skip


class ConvertWhisper(Stage):
    """``encoder/`` and ``decoder/``, each a TensorRT-LLM checkpoint of one rank, by the image's own
    ``whisper/convert_checkpoint.py``.

    `weights` is a folder with ``<model>.pt`` in OpenAI's layout, as ``remote("https://…/large-v3.pt")`` gives one.
    `weight_only` stores the matrices in 8 or 4 bits. What was written is read back: both halves, their architectures
    and the quantisation.
    """

    kind: ClassVar[str] = "tensorrt-llm.convert-whisper"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "trtllm_whisper.py",
        "trtllm_convert.py",
        "disk_space.py",
        "safetensors_file.py",
        "stage_file.py",
    )

    environment: InstanceOf[Environment]
    cores: Positive = 4
    memory_mb: Positive = 16384
    weights: Input
    release: str
    model: Model = "large-v3"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    weight_only: Literal["", "int8", "int4"] = ""


class Half(Stage):
    """One of the two checkpoints of `checkpoint`, the output of `ConvertWhisper`."""

    kind: ClassVar[str] = "tensorrt-llm.half"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("checkpoint_half.py", "stage_file.py")
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=files_environment)
    checkpoint: Input
    half: Literal["encoder", "decoder"]
