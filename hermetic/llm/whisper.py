"""Whisper for TensorRT-LLM: one file of OpenAI's weights becomes two checkpoints, and each of them an engine.

::

    weights = remote("https://openaipublic.azureedge.net/main/whisper/models/e5b1…/large-v3.pt")
    halves = ConvertWhisper(environment=image, release="1.2.1", weights=weights, model="large-v3", weight_only="int8")
    encoder = Half(checkpoint=halves, half="encoder")
    decoder = Half(checkpoint=halves, half="decoder")

Each half is what `hermetic.llm.tensorrt_llm.Engine` takes, and both engines with a vocabulary are what is asked::

    engine = Whisper(encoder=encoder_engine, decoder=decoder_engine, vocabulary=remote("https://…/multilingual.tiktoken"))
    smoke = WhisperSmoke(engine=engine, sound=Source("jfk.wav"), transcript="And so my fellow Americans …")
    repository = triton_repository(engine, manifest=Manifest(engine=engine, smoke=smoke))

`recipes/whisper.py` has the options of both engines.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, InstanceOf, model_validator
from pydantic_core import PydanticCustomError

from hermetic.llm.environments import files_environment
from hermetic.llm.origins import origins
from hermetic.llm.support.releases import is_older
from hermetic.llm.tensorrt_llm import SESSION, Engine
from hermetic.recipe import Environment, Gpu, Source, Stage

__all__ = ["ConvertWhisper", "Half", "Manifest", "Whisper", "WhisperSmoke"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]

#: What loads such an engine and gives it sound.
_HEARING: Final = ("trtllm_whisper_session.py", "whisper_sound.py", "whisper_words.py", *SESSION)
#: The first release whose Triton backend takes sound (tensorrtllm_backend v0.15.0, all_models/whisper).
_FIRST: Final = "0.15.0"
#: Thirty seconds, which is what the model hears at once.
_FRAMES: Final = 3000

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
        "whisper_halves.py",
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


class Whisper(Stage):
    """``encoder/`` and ``decoder/``, the engines of both halves, and the vocabulary's ``.tiktoken`` file: what
    TensorRT-LLM's own runner and Triton's models take.

    `vocabulary` is a folder with OpenAI's ``multilingual.tiktoken``, or for models of English alone ``gpt2.tiktoken``,
    and must fit the decoder. `language`, in the letters that OpenAI has for it ("en", "de", "yue"), and `task` are what
    ``hermetic run`` and the smoke test ask for; they change nothing here.
    """

    kind: ClassVar[str] = "tensorrt-llm.whisper"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "trtllm_whisper_engine.py",
        "whisper_halves.py",
        "whisper_words.py",
        "stage_file.py",
    )
    runner: ClassVar[tuple[str, ...]] = ("trtllm_transcribe.py", *_HEARING)
    asked_with: ClassVar[Literal["text", "file"]] = "file"
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=files_environment)
    encoder: InstanceOf[Engine]
    decoder: InstanceOf[Engine]
    vocabulary: Input
    language: Language = "en"
    task: Literal["transcribe", "translate"] = "transcribe"

    @model_validator(mode="after")
    def _fits(self) -> Whisper:
        if self.encoder.release != self.decoder.release:
            raise _unfit(f"the encoder is of {self.encoder.release}, the decoder of {self.decoder.release}")
        if is_older(self.release, _FIRST):
            raise _unfit(f"sound is taken by TensorRT-LLM {_FIRST} and later, not by {self.release}")
        for engine, name in ((self.encoder, "max_input_len"), (self.decoder, "max_encoder_input_len")):
            length = engine.options.get(name)
            if isinstance(length, int) and length < _FRAMES:
                raise _unfit(f"{name} is {length}, and 30 seconds of sound are {_FRAMES} frames")
        return self

    @property
    def release(self) -> str:
        """TensorRT-LLM's, of both halves."""
        return self.decoder.release

    def parameters_in_full(self) -> dict[str, Any]:
        """None: what is asked of it is for whoever runs it."""
        return {}

    def run_parameters(self) -> dict[str, Any]:
        return {"language": self.language, "task": self.task}

    @property
    def run_environment(self) -> Environment:
        """What both halves were built in."""
        return self.decoder.environment

    @property
    def run_gpu(self) -> Gpu | None:
        return self.decoder.run_gpu


class WhisperSmoke(Stage):
    """A required check of `engine`, whose image and GPU it runs in; ``report.json`` has what was found.

    `sound`, a WAV file or a folder with one, is transcribed twice and must give the same tokens, and an end. Of the
    words of `transcript` a share of `tolerance` may be put in, left out or replaced (the word error rate); case and
    punctuation do not count.
    """

    kind: ClassVar[str] = "tensorrt-llm.whisper-smoke"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("trtllm_whisper_smoke.py", "trtllm_smoke.py", "repetition.py", *_HEARING)
    #: Sums of floating-point numbers are in an order that the GPU chooses, and a word may turn on the last bit.
    grade: ClassVar[str] = "different"

    environment: InstanceOf[Environment]
    cores: Positive = 4
    memory_mb: Positive = 32768
    timeout: Annotated[int, Field(ge=0)] = 3600
    check: bool = True
    engine: InstanceOf[Whisper]
    sound: Input
    transcript: Annotated[str, Field(min_length=1)]
    tolerance: Share = "0"
    allow_repetition: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_its_engine(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Environment and GPU are the engine's."""
        engine = data.get("engine")
        if not isinstance(engine, Whisper):
            return data
        own: dict[str, Any] = {"environment": engine.run_environment}
        return own | ({"gpu": engine.run_gpu} if engine.run_gpu is not None else {}) | data

    def parameters_in_full(self) -> dict[str, Any]:
        return super().parameters_in_full() | self.engine.run_parameters()


class Manifest(Stage):
    """``manifest.json`` of a `Whisper`, in the form that an engine's has: `build`, `model` and `quantisation` are the
    decoder's, and those of the encoder are in `encoder`.

    With `smoke`, a `WhisperSmoke`, there is no manifest of an engine that has failed, and its report is in it.
    """

    kind: ClassVar[str] = "tensorrt-llm.whisper-manifest"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "trtllm_whisper_manifest.py",
        "tensorrt_llm_manifest.py",
        "build_options.py",
        "file_digests.py",
        "stage_file.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=files_environment)
    engine: InstanceOf[Whisper]
    smoke: Input | None = None

    def parameters_in_full(self) -> dict[str, Any]:
        """What the stages and the recipe know and no file says."""
        came_from, gpu = origins(self.engine), self.engine.run_gpu
        halves = {"encoder": self.engine.encoder, "decoder": self.engine.decoder}
        return {
            "gpu": gpu.identity() if gpu is not None and gpu.declared else {},
            "builder": self.engine.decoder.builder,
            "release": self.engine.release,
            "requested": {half: dict(engine.options) for half, engine in halves.items()},
            "containers": came_from.containers,
            "snapshots": came_from.snapshots,
        }

    def parameters_in_key(self) -> dict[str, Any]:
        """All of them: none has a default."""
        return self.parameters_in_full()


def _unfit(message: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{reason}", {"reason": message})
