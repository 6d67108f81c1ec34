"""The engine kind `openvino`: from a checkpoint to a folder that OpenVINO GenAI runs on an ordinary processor.

::

    weights = Checkpoint(model=Source("my-model"))            # a Hugging Face folder, checked and normalised
    quantised = Quantise(weights=weights, mode="int4_sym")    # the decoder as a graph with small weights
    engine = Engine(weights=weights, quantised=quantised)     # graph, tokenizer and settings in one folder
    manifest = Manifest(weights=weights, engine=engine)       # what it is made of
    smoke = Smoke(weights=weights, engine=engine)             # does it work, does it compute the right thing

Qwen2, Qwen3 and Llama decoders in BF16, F16 or F32, tied or not, sharded or not, with default or llama3 rotary
positions; anything else is refused by name when `Checkpoint` is built. No stage needs torch or transformers.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal, LiteralString

from pydantic import Field, InstanceOf, model_validator
from pydantic_core import PydanticCustomError

from hermetic.recipe import Environment, PythonEnv, Source, Stage

__all__ = ["Checkpoint", "Engine", "Manifest", "Quantise", "Smoke", "build_environment", "run_environment"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]
Decimal = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]

_LOCKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locks")
_CHECKPOINT = ("stage_file.py", "safetensors_file.py", "architecture.py")


def build_environment(python: str = "") -> PythonEnv:
    """OpenVINO with NNCF: what `Checkpoint`, `Quantise` and `Engine` are built in."""
    return PythonEnv(os.path.join(_LOCKS, "openvino-build.txt"), python=python)


def run_environment(python: str = "") -> PythonEnv:
    """OpenVINO without NNCF: what an engine runs in, and where `Manifest` and `Smoke` look at it."""
    return PythonEnv(os.path.join(_LOCKS, "openvino-run.txt"), python=python)


def _unfit(message: LiteralString) -> PydanticCustomError:
    return PydanticCustomError("unfit", message)


class _Stage(Stage):
    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the inputs that are not given."""
        return {name: value for name, value in super().parameters_in_full().items() if value is not None}


class Checkpoint(_Stage):
    """`model`, a folder in Hugging Face layout, checked tensor by tensor and written in one normal form.

    How the checkpoint was sharded and who saved it leave no trace in the result.
    """

    kind: ClassVar[str] = "openvino.checkpoint"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("checkpoint.py", *_CHECKPOINT)
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=build_environment)
    model: Input


class Quantise(_Stage):
    """The decoder as an OpenVINO graph whose matrices are stored in `mode`.

    * ``int4_sym``: four bits, a scale for every `group_size` weights of a row; embeddings and head eight bits.
      `ratio` is the largest share of the decoder's weights that may have four bits; the others, those that would
      lose most, get eight.
    * ``int8_asym``: eight bits, a scale and an offset for every row.
    * ``none``: as the checkpoint has them.

    `awq`, `scale_estimation` and `gptq` choose the four-bit values with the help of `calibration`: a text file with
    samples between blank lines, or ``.jsonl`` with one ``{"text": ...}`` a line; the first `samples` of them are
    used, each cut to `length` tokens. The build fails if the graph, read back, holds anything else than asked.

    Memory is bounded by the compressed weights and one layer (or the embeddings) in float32; `memory_mb` suffices
    for a model of the size of Qwen3-0.6B.
    """

    kind: ClassVar[str] = "openvino.quantise"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "openvino_quantise.py",
        "openvino_graph.py",
        "openvino_names.py",
        "openvino_weights.py",
        "calibration.py",
        "lean_nncf.py",
        *_CHECKPOINT,
    )
    #: Rounding is decided by float32 sums, and those may differ in the last bit from one instruction set to another.
    platform: ClassVar[tuple[str, ...]] = ("system", "cpu_isa")

    environment: InstanceOf[Environment] = Field(default_factory=build_environment)
    cores: Positive = 2
    memory_mb: Positive = 4096
    weights: Input
    calibration: Input | None = None
    mode: Literal["int4_sym", "int8_asym", "none"] = "int4_sym"
    group_size: Literal[32, 64, 128] = 128
    ratio: Annotated[str, Field(pattern=r"^(1(\.0+)?|0\.[0-9]*[1-9][0-9]*)$")] = "1.0"
    awq: bool = False
    scale_estimation: bool = False
    gptq: bool = False
    samples: Positive = 64
    length: Positive = 128

    @model_validator(mode="after")
    def _fits(self) -> Quantise:
        calibrated = self.awq or self.scale_estimation or self.gptq
        if calibrated and self.mode != "int4_sym":
            raise _unfit(f"awq, scale_estimation and gptq belong to int4_sym, not to {self.mode}")
        if calibrated and self.calibration is None:
            raise _unfit("awq, scale_estimation and gptq need calibration=Source(...)")
        if self.calibration is not None and not calibrated:
            raise _unfit("calibration is used by awq, scale_estimation and gptq, and none of them is set")
        return self


class Engine(_Stage):
    """A folder that OpenVINO GenAI loads: graph, tokenizer, chat template, settings of generation.

    `generation` overrides settings of the checkpoint's ``generation_config.json``, such as ``max_new_tokens``;
    decimals such as ``temperature`` are strings. The tokenizer is compared with the tokenizers library, and the
    engine must load and generate, or the build fails.
    """

    kind: ClassVar[str] = "openvino.engine"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "openvino_engine.py",
        "openvino_tokenizer.py",
        "openvino_names.py",
        "stage_file.py",
    )
    runner: ClassVar[tuple[str, ...]] = ("openvino_chat.py", "stage_file.py")

    environment: InstanceOf[Environment] = Field(default_factory=build_environment)
    memory_mb: Positive = 2048
    weights: Input
    quantised: Input
    generation: dict[str, int | str | bool | list[int]] = Field(default_factory=dict)

    @property
    def run_environment(self) -> Environment:
        """What ``hermetic run`` starts the engine in: without the tools that only building needs."""
        return run_environment()


class Manifest(_Stage):
    """``manifest.json``: every file of `engine` and of `weights` with its SHA-256 and BLAKE3, the quantisation, the
    settings and the versions of the tools.
    """

    kind: ClassVar[str] = "openvino.manifest"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "openvino_manifest.py",
        "file_digests.py",
        "safetensors_file.py",
        "stage_file.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=run_environment)
    weights: Input
    engine: Input


class Smoke(_Stage):
    """A required check of `engine`; ``report.json`` has what was measured.

    Logits of a prompt and its answer, at once and token by token through the KV cache, must lie within `tolerance`
    of a NumPy forward pass with the weights that the engine really holds, and within `original_tolerance` of one
    with the original weights, relative to the largest logit, in float32 throughout. Each of `prompts` must get the
    same sensible answer twice; each of `golden` exactly the answer given there. With `manifest`, every file must
    have the digests it lists. An answer must not be empty, nor go round in circles unless the original weights would as
    well; `allow_nonsense` drops that.
    """

    kind: ClassVar[str] = "openvino.smoke"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "openvino_smoke.py",
        "openvino_weights.py",
        "reference_forward.py",
        "repetition.py",
        *_CHECKPOINT,
    )
    platform: ClassVar[tuple[str, ...]] = ("system", "cpu_isa")

    environment: InstanceOf[Environment] = Field(default_factory=run_environment)
    cores: Positive = 2
    memory_mb: Positive = 4096
    check: bool = True
    weights: Input
    engine: Input
    manifest: Input | None = None
    prompts: tuple[str, ...] = ("What is the capital of France?",)
    golden: dict[str, str] = Field(default_factory=dict)
    max_new_tokens: Positive = 64
    positions: Positive = 64
    tolerance: Decimal = "0.001"
    original_tolerance: Decimal = "0.5"
    allow_nonsense: bool = False
