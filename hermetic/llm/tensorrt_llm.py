"""The engine kind `tensorrt-llm`: a TensorRT engine, built by the tools of TensorRT-LLM up to 1.2.1 inside its image.

::

    image = Image("nvcr.io/nvidia/tensorrt-llm/release:1.2.1")
    engine = Engine(environment=image, release="1.2.1", checkpoint=quantised, tokenizer=snapshot,
                    options={"max_batch_size": 4, "max_seq_len": 5120})

An option that the release does not have is refused when the recipe is read, with the right spelling. All options, with
the release's own defaults, enter the key, so a changed default of another release is another engine.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, InstanceOf, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hermetic.errors import HermeticError
from hermetic.llm import memory
from hermetic.llm.environments import files_environment
from hermetic.llm.findings import Finding, Severity, errors_of
from hermetic.llm.origins import origins
from hermetic.llm.speculation import NEEDED, Eagle, Lookahead, Medusa
from hermetic.llm.trtllm import Parsed, Table, check_values, table
from hermetic.llm.trtllm.coupling import coupled
from hermetic.llm.trtllm.options import UNKNOWN, Value
from hermetic.llm.trtllm.options_file import options_file
from hermetic.recipe import Environment, Gpu, Source, Stage
from hermetic.recipe.harvest import TOKENIZER, Harvest, LogLine

__all__ = ["SESSION", "Engine", "Manifest", "Quantise", "coupled", "options_file"]

Input = InstanceOf[Stage] | InstanceOf[Source]
Positive = Annotated[int, Field(ge=1)]

#: Options that the stage itself gives: places inside the sandbox, and what changes no byte.
_OURS = frozenset({"checkpoint_dir", "output_dir", "input_timing_cache", "output_timing_cache", "log_level", "workers"})
#: Options that name files, which a sandbox does not have, and what to give in their place.
_FILES = {
    "lora_dir": "adapters=",
    "build_config": "options= with what is in it",
    "model_config": "checkpoint=",
    "model_cls_file": "a model that the release knows",
    "visualize_network": "hermetic shell",
}
#: What loads an engine of either kind and asks it.
SESSION = ("trtllm_session.py", "trtllm_speculation.py", "model_yaml.py", "stage_file.py")
_TOOLS = {"trtllm-build": "trtllm-build", "trtllm-bench": "trtllm-bench build", "quantize.py": "quantize.py"}
_BUILDERS = ("trtllm-build", "trtllm-bench")
#: Where trtllm-bench leaves an engine: in a folder of its own until it ends, then below the model's name, which may
#: have an owner (``<workspace>/<model>/tp_<n>_pp_<n>``); the former is gone then.
_BENCH_FOLDERS = ("tmp/*-llm-workspace/tmp.engine", "tmp/*/*/tp_*_pp_*", "tmp/*/tp_*_pp_*")
_SERIALISED = r"Engine serialized\. Total time: "  # _common.py `serialize_engine`, at log level info, once a rank


class Quantise(Stage):
    """`snapshot`, a Hugging Face checkpoint, quantised by the image's own ``quantize.py``: a TensorRT-LLM checkpoint of
    `tp` x `pp` ranks.

    `calibration` is the output of `hermetic.llm.quantise.calibration`; all of its samples are used, each cut to
    `max_length` tokens. Formats that need none (``int8_wo``, ``int4_wo``) have none. What was written is read back: the
    script falls back to 16 bits without a word, and then the stage fails.
    """

    kind: ClassVar[str] = "tensorrt-llm.quantise"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "trtllm_quantise.py",
        "trtllm_convert.py",
        "disk_space.py",
        "safetensors_file.py",
        "stage_file.py",
    )
    #: Scales follow from sums of floating-point numbers, in an order that the GPU chooses.
    grade: ClassVar[str] = "different"

    environment: InstanceOf[Environment]
    cores: Positive = 8
    memory_mb: Positive = 131072
    snapshot: Input
    calibration: Input | None = None
    release: str
    format: Literal["fp8", "nvfp4", "int4_awq", "w4a8_awq", "int8_sq", "int8_wo", "int4_wo"]
    kv_cache: Literal["none", "fp8", "int8"] = "none"
    tp: Positive = 1
    pp: Positive = 1
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    max_length: Positive = 512
    seed: Annotated[int, Field(ge=0)] = 1234
    awq_block_size: Literal[64, 128] = 128

    @model_validator(mode="after")
    def _fits(self) -> Quantise:
        calibrated = not self.format.endswith("_wo") or self.kv_cache == "int8"
        if calibrated and self.calibration is None:
            raise _unfit(f"{self.format} looks at samples, and the script would take an unpinned set: give calibration")
        if not calibrated and self.calibration is not None:
            raise _unfit(f"{self.format} looks at no samples: leave out calibration")
        _known("quantize.py", self.release)
        return self

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the input that is not given."""
        return {name: value for name, value in super().parameters_in_full().items() if value is not None}

    def expected_bytes(self) -> int | None:
        """The weights, as it stores them."""
        return memory.weights_of(self)


class Engine(Stage):
    """``config.json``, one ``rank<N>.engine`` for each rank of the checkpoint, and the tokenizer's files.

    `checkpoint` is a TensorRT-LLM checkpoint; how many ranks it has, and how it is quantised, was decided when it was
    made. With `quantisation`, such as ``W4A8_AWQ``, the engine's own ``config.json`` must say so, or nothing enters the
    store. `tokenizer` is a folder with a tokenizer, of which only its files are taken.

    `builder` ``trtllm-build`` starts no executor and ends by itself; ``trtllm-bench`` builds through the LLM API,
    may never end, and is harvested. It needs `model`, the name that the tool knows the model by, and takes a Hugging
    Face checkpoint. `options` are the tool's own, of `release`, in any spelling, without the dashes.

    `adapters` is one LoRA adapter, or a folder of several (`hermetic.llm.lora.adapters`), in Hugging Face layout; the
    engine has them in ``lora/``. Engines for adapters that come later need ``lora_target_modules`` instead.

    `timing_cache` is a folder with ``timing.cache``, as every engine of ``trtllm-build`` leaves one. Without it each
    build measures its kernels afresh, and two builds may choose differently. ``realise --check`` grades two builds
    `structural` only with ``profiling_verbosity`` ``detailed``: else a plan does not name its tactics.

    `speculation` is how an engine whose ``speculative_decoding_mode`` is lookahead, Medusa or EAGLE is told to draft
    tokens when it runs (`hermetic.llm.speculation`); it is not in the key.
    """

    kind: ClassVar[str] = "tensorrt-llm.engine"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = ("tensorrt_llm_engine.py", "stage_file.py")
    runner: ClassVar[tuple[str, ...]] = ("trtllm_chat.py", *SESSION)
    comparator: ClassVar[tuple[str, ...]] = ("trtllm_grade.py", *SESSION)
    grade: ClassVar[str] = "different"  # TensorRT promises nothing better: which of two equal kernels wins is noise

    environment: InstanceOf[Environment]
    cores: Positive = 8
    memory_mb: Positive = 65536
    checkpoint: Input
    tokenizer: Input | None = None
    timing_cache: Input | None = None
    adapters: Input | None = None
    release: str
    builder: Literal["trtllm-build", "trtllm-bench"] = "trtllm-build"
    model: str = ""
    quantisation: str = ""
    options: dict[str, str | int | bool | list[str]] = Field(default_factory=dict)
    speculation: Lookahead | Medusa | Eagle | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Options become canonical, with the release's defaults; the harvest is what this builder needs."""
        builder, options = data.get("builder", "trtllm-build"), data.get("options", {})
        if builder in _BUILDERS and isinstance(data.get("release"), str) and isinstance(options, dict):
            data = {**data, "options": canonical(options, _known(builder, data["release"]))}
        return {"harvest": _harvest(str(builder), data), **data}

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, Value]) -> dict[str, Value]:
        if taken := sorted(_OURS & options.keys()):
            raise _unfit(f"the stage itself gives {', '.join(taken)}")
        if named := sorted(_FILES.keys() & options.keys()):
            raise _unfit(f"{named[0]} names a file that the stage would not see: use {_FILES[named[0]]}")
        return options

    @model_validator(mode="after")
    def _fits(self) -> Engine:
        if (self.builder == "trtllm-bench") != bool(self.model):
            raise _unfit("builder trtllm-bench needs model, the name it knows it by, and trtllm-build has none")
        if self.builder == "trtllm-bench" and self.timing_cache is not None:
            raise _unfit("trtllm-bench takes no timing cache; trtllm-build does")
        if self.adapters is not None and self.options.get("lora_plugin") in (None, "disable"):
            raise _unfit("adapters have no effect without the LoRA plugin: options={'lora_plugin': 'auto'}")
        if problem := _misfit(self.options, self.speculation):
            raise _unfit(problem)
        for finding in errors_of([*coupled(self.options), *memory.findings(self)]):
            raise finding.unfit()
        return self

    def parameters_in_full(self) -> dict[str, Any]:
        """As ever, without the inputs that are not given, and with the memory of a GPU, which its key names anyway."""
        found = {name: value for name, value in super().parameters_in_full().items() if value is not None}
        found.pop("speculation", None)  # for whoever runs it
        return found | ({"device_gib": self.gpu.memory_gib} if self.gpu is not None else {})

    def parameters_in_key(self) -> dict[str, Any]:
        return {name: value for name, value in super().parameters_in_key().items() if name != "device_gib"}

    def expected_bytes(self) -> int | None:
        """The weights, which are nearly all of it."""
        return memory.weights_of(self)

    def run_parameters(self) -> dict[str, Any]:
        return {"speculation": self.speculation.told()} if self.speculation is not None else {}

    @property
    def run_gpu(self) -> Gpu | None:
        """One for each rank, of the kind that built them all."""
        ranks = memory.ranks(self)
        if self.gpu is None or self.gpu.count >= ranks:
            return self.gpu
        return self.gpu.model_copy(update={"count": ranks})

    def findings(self) -> list[Finding]:
        """What ``hermetic lint`` has to say beyond the errors that a recipe cannot have."""
        options = check_values(self.options, table(_TOOLS[self.builder], self.release)).findings
        return [*options, *coupled(self.options), *memory.findings(self), *self._untold()]

    def _untold(self) -> list[Finding]:
        mode = self.options.get("speculative_decoding_mode")
        if mode not in NEEDED or self.speculation is not None:
            return []
        message = f"nothing says how an engine for {mode} drafts, so it can neither be asked nor tested"
        hint = f"speculation={NEEDED[str(mode)].__name__}(...)"
        return [Finding("speculation-untold", Severity.NOTE, "speculation", message, hint)]


class Manifest(Stage):
    """``manifest.json`` of `engine`: every file with its SHA-256 and BLAKE3, the options that were asked for and those
    that the builder really used, the quantisation, the tokenizer, the commits and container digests that it came from.

    `calibration` and `checkpoint`, where given, are listed file by file. With `smoke`, a `hermetic.llm.smoke.Smoke`,
    there is no manifest of an engine that has failed, and its report is in it.
    """

    kind: ClassVar[str] = "tensorrt-llm.manifest"
    version: ClassVar[int] = 1
    programs: ClassVar[tuple[str, ...]] = (
        "tensorrt_llm_manifest.py",
        "build_options.py",
        "file_digests.py",
        "stage_file.py",
    )
    platform: ClassVar[tuple[str, ...]] = ()

    environment: InstanceOf[Environment] = Field(default_factory=files_environment)
    engine: InstanceOf[Engine]
    checkpoint: Input | None = None
    calibration: Input | None = None
    smoke: Input | None = None

    def parameters_in_full(self) -> dict[str, Any]:
        """What the engine stage and the recipe know and no file says."""
        came_from = origins(self.engine)
        gpu = self.engine.gpu
        return {
            "gpu": gpu.identity() if gpu is not None and gpu.declared else {},
            "builder": self.engine.builder,
            "release": self.engine.release,
            "requested": dict(self.engine.options),
            "containers": came_from.containers,
            "snapshots": came_from.snapshots,
        }

    def parameters_in_key(self) -> dict[str, Any]:
        """All of them: none has a default."""
        return self.parameters_in_full()


def _misfit(options: dict[str, Value], speculation: Lookahead | Medusa | Eagle | None) -> str:
    """Why an engine built with `options` cannot be run so."""
    mode, length = options.get("speculative_decoding_mode"), options.get("max_draft_len")
    if speculation is None:
        return ""
    if mode != speculation.mode:
        kind = type(speculation).__name__
        return (
            f"speculation={kind}(...) is for speculative_decoding_mode {speculation.mode}, and the engine's is {mode}"
        )
    if isinstance(speculation, Lookahead) and length != speculation.draft_len:
        sizes = (speculation.window, speculation.ngram, speculation.verification)
        return f"lookahead with {sizes} drafts {speculation.draft_len} tokens, and max_draft_len is {length}"
    return ""


def _known(builder: str, release: str) -> Table:
    try:
        return table(_TOOLS[builder], release)
    except HermeticError as error:
        raise _unfit(f"{error.message}: {error.hint}") from error


def canonical(options: dict[str, Value], known: Table) -> dict[str, Value]:
    """`options` under their canonical names, with the defaults of the release where those are known.

    Raises `PydanticCustomError` naming every option that the release does not have or that has a wrong value.
    """
    parsed: Parsed = check_values(options, known)
    wrong = [f"{one.message} ({one.hint})" if one.hint else one.message for one in parsed.findings if _is_error(one)]
    if wrong:
        raise _unfit("; ".join(wrong))
    defaults = {
        option.name: option.default
        for option in known.options
        if option.presence == "yes" and option.name not in _OURS and option.default not in (None, UNKNOWN, False)
    }
    chosen = {name: value for name, value in parsed.values.items() if value is not False}
    return dict(sorted({**defaults, **chosen}.items()))  # type: ignore[arg-type]


def _harvest(builder: str, data: dict[str, Any]) -> Harvest:
    options = data.get("options", {})
    wanted = data.get("quantisation")
    folders = _BENCH_FOLDERS if builder == "trtllm-bench" else ("out",)
    artifacts = ("config.json", "rank*.engine") + (() if builder == "trtllm-bench" else ("timing.cache",))
    if data.get("adapters") is not None:
        artifacts += ("lora/*/adapter_config.json", "lora/*/adapter_model.safetensors")
    return Harvest(
        artifacts=artifacts,
        complete=LogLine(_SERIALISED),
        folders=folders,
        take={"tokenizer": TOKENIZER} if data.get("tokenizer") is not None else {},
        config={"pretrained_config.quantization.quant_algo": wanted} if isinstance(wanted, str) and wanted else {},
        floor={} if isinstance(options, dict) and options.get("strip_plan") else {"checkpoint": "0.5"},
        timeout=14400,
    )


def _is_error(finding: Finding) -> bool:
    return finding.severity is Severity.ERROR


def _unfit(message: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{reason}", {"reason": message})
