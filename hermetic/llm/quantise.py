"""Quantising a checkpoint with NVIDIA ModelOpt: calibration samples first, then the weights.

::

    samples = calibration(hub_dataset("abisee/cnn_dailymail"), count=512, column="article", max_length=512, seed=1)
    weights = quantise(checkpoint, "w4a8_awq", calibration=samples, kv_cache="fp8", export="hf",
                       target=Target("tensorrt-llm-pytorch", sm="90"))

Qwen2, Qwen3 and Llama decoders in BF16, F16 or F32. docs/models.md says what each format is for and what was run.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, InstanceOf, model_validator
from pydantic_core import PydanticCustomError

from hermetic.llm import memory
from hermetic.llm.support import FORMATS, Target, refusals
from hermetic.recipe import Environment, PythonEnv, Source, Stage, evaluation

__all__ = ["Calibration", "Quantise", "Target", "calibration", "data_environment", "models_environment", "quantise"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]
Decimal = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Format = Literal["w4a8_awq", "int4_awq", "fp8", "nvfp4", "int8_sq"]

_LOCKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locks")


def models_environment(python: str = "", *, cuda: bool = False) -> PythonEnv:
    """torch, transformers, peft and ModelOpt: the CPU build of torch, for CPython 3.11 only, or the one for CUDA 13.0.

    docs/models.md says where each comes from, and that the latter was locked but not run.
    """
    return PythonEnv(os.path.join(_LOCKS, "models-cuda.txt" if cuda else "models-cpu.txt"), python=python)


def data_environment(python: str = "") -> PythonEnv:
    """pyarrow, which reads the files of data sets."""
    return PythonEnv(os.path.join(_LOCKS, "models-data.txt"), python=python)


class Calibration(Stage):
    """`count` rows of the text column `column` of `dataset`, in an order that `seed` decides: ``samples.jsonl``.

    `dataset` is a file or a folder of Parquet, JSON lines, JSON, CSV or plain text (samples between blank lines, with
    `column` empty). `split` chooses files of a folder by a part of their names; it is empty for a file. `max_length`
    is in tokens, and is applied where a tokenizer is. Rows without text are passed over; a data set with fewer rows
    with text than `count`, or without that column, is refused.
    """

    kind: ClassVar[str] = "models.calibration"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("calibration_set.py", "stage_file.py")
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=data_environment)
    dataset: Input
    count: Positive
    column: str
    max_length: Positive
    seed: Annotated[int, Field(ge=0)]
    split: str


class Quantise(Stage):
    """`checkpoint`, a Hugging Face folder, with the matrices of its layers stored in `format`.

    * ``w4a8_awq``: four bits in groups of 128, scaled for the activations (AWQ), which are FP8.
    * ``int4_awq``: the same with activations in `dtype`.
    * ``fp8``: weights and activations in E4M3, one scale for each tensor.
    * ``nvfp4``: weights and activations in E2M1, an E4M3 scale for every 16.
    * ``int8_sq``: eight bits with SmoothQuant.

    Embeddings and the head stay in `dtype`. With `kv_cache` ``fp8`` the checkpoint says that keys and values are kept
    in FP8. The export ``hf`` is one checkpoint; ``tensorrt_llm`` is split over `tp` x `pp` ranks for ``trtllm-build``,
    and its ``config.json`` names the quantisation that every rank has.

    The files are read back: the build fails if a matrix, a scale or the configuration is not what was asked for, if a
    matrix of the export ``hf``, decoded from its bits, is not the original one rounded, or if a logit of the quantised
    model is further than `largest_difference` of the largest from that of the original.
    Memory: the model in `dtype` and two gigabytes more, as measured with four billion parameters.

    The same machine gives the same bytes. With `gpu` the model is quantised there, in an environment with CUDA. `batch`
    samples of one length go through it at a time; it may change the last bit of a scale.
    """

    kind: ClassVar[str] = "models.quantise"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "modelopt_quantise.py",
        "architecture.py",
        "checkpoint.py",
        "disk_space.py",
        "quantised_checkpoint.py",
        "quantised_values.py",
        "safetensors_file.py",
        "samples_file.py",
        "stage_file.py",
        "torch_model.py",
    )
    comparator: ClassVar[tuple[str, ...]] = ("checkpoint_grade.py", "safetensors_file.py", "stage_file.py")
    #: Scales are decided by sums of floating-point numbers, which may differ from one instruction set to another.
    platform: ClassVar[tuple[str, ...]] = ("system", "cpu_isa")

    environment: InstanceOf[Environment] = Field(default_factory=models_environment)
    cores: Positive = 2
    memory_mb: Positive = 8192
    checkpoint: Input
    calibration: Input
    format: Format
    kv_cache: Literal["none", "fp8"] = "none"
    export: Literal["hf", "tensorrt_llm"] = "hf"
    tp: Positive = 1
    pp: Positive = 1
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    batch: Positive = 1
    largest_difference: Decimal = "1.0"

    @model_validator(mode="after")
    def _fits(self) -> Quantise:
        if self.export == "hf" and self.tp * self.pp > 1:
            raise PydanticCustomError("unfit", "the export hf is one checkpoint; tp and pp belong to tensorrt_llm")
        return self

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, with the device that the model is on. The GPU itself is in the key by its own name."""
        return super().parameters_in_full() | {"device": "cuda" if self.gpu is not None else "cpu"}

    def expected_bytes(self) -> int | None:
        """The weights, as it stores them."""
        return memory.weights_of(self)


def calibration(
    dataset: Stage | Source, *, count: int, column: str, max_length: int, seed: int, split: str = "", name: str = ""
) -> Calibration:
    """See `Calibration`."""
    return Calibration(
        dataset=dataset, count=count, column=column, max_length=max_length, seed=seed, split=split, name=name
    )


def quantise(
    checkpoint: Stage | Source,
    format: Format,  # noqa: A002  # the word for it
    *,
    calibration: Stage | Source,
    kv_cache: Literal["none", "fp8"] = "none",
    export: Literal["hf", "tensorrt_llm"] = "hf",
    target: Target | None = None,
    **fields: Any,
) -> Quantise:
    """See `Quantise`. `target` says what will run the result; it is not in the key, and decides only what is refused.

    Reports `HermeticError` (recipe/…) before anything is built: format-for-gpu, format-for-backend, cache-for-gpu,
    format-and-cache, export-for-backend.
    """
    if target is not None and format in FORMATS:
        for found in refusals(target, format, kv_cache, export):
            evaluation.fail(found.reason, found.message, hint=f"{found.instead} ({found.source})")
    fields |= {"checkpoint": checkpoint, "calibration": calibration, "kv_cache": kv_cache, "export": export}
    return Quantise(format=format, **fields)
