"""A config as a build plan: what is fetched, how it is quantised, with which options the engine is built. Pure data.

Options are spelt as ``trtllm-build`` (v1) or ``tensorrt_llm.LLM`` (v2) spell them. What only the server reads is kept
under `runtime`, and nothing is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from hermetic.errors import HermeticError
from hermetic.llm.speculation import Lookahead
from hermetic.llm.trtllm import table
from hermetic.llm.truss.families import family_of
from hermetic.llm.truss.hardware import SM
from hermetic.llm.truss.load import Truss
from hermetic.llm.truss.section import (
    ENCODERS,
    Calibration,
    EngineBuild,
    Quantisation,
    Repository,
    RuntimeV1,
    RuntimeV2,
    SectionV1,
    SectionV2,
    Source,
)

__all__ = ["RELEASE", "Address", "BuildPlan", "Missing", "Samples", "plan_of"]

#: The last stable release of TensorRT-LLM that builds engines; a config that names no builder gets it.
RELEASE: Final = "1.2.1"
IMAGE: Final = "nvcr.io/nvidia/tensorrt-llm/release"

_NEWS: Final = "cnn_dailymail"


@dataclass(frozen=True)
class Address:
    """Where weights come from, as the lock file names it, and the name of the secret that opens it."""

    uri: str
    secret: str


@dataclass(frozen=True)
class Samples:
    """What is calibrated with: `count` texts of a data set on the Hub, cut at `max_length` tokens."""

    dataset: str
    files: str
    column: str
    count: int
    max_length: int


@dataclass(frozen=True)
class Missing:
    """Something that the config asks for and hermetic does not build yet; `field` is where it asks."""

    field: str
    what: str


@dataclass(frozen=True)
class BuildPlan:
    """`kind` is the engine kind, `family` a guess from the repository's name ("" if there is none).

    `quantisation` is Truss's word; `format` and `cache` are those of `hermetic.llm.quantise`, both ``""`` where the
    weights are only converted, with the options `convert`. `algorithm` is what the engine's ``config.json`` must say.
    `lookahead` are the fields of `hermetic.llm.speculation.Lookahead`, where they fit the engine's options.
    """

    kind: str
    release: str
    image: str
    accelerator: str
    gpus: int
    sm: int
    tp: int
    pp: int
    snapshot: Address | None
    family: str
    quantisation: str
    format: str
    cache: str
    algorithm: str
    convert: dict[str, Any] = field(default_factory=dict)
    samples: Samples | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    lookahead: dict[str, int] = field(default_factory=dict)
    adapters: dict[str, Address] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class _Way:
    """How a quantisation is done: by `hermetic.llm.quantise` (a format), or by the options of the conversion."""

    format: str = ""
    cache: str = ""
    algorithm: str = ""
    calibrated: bool = False


#: Source of the algorithms: ``quant_algo`` in TensorRT-LLM's checkpoints. None: nothing here does it yet.
_WAYS: Final[dict[Quantisation, _Way | None]] = {
    Quantisation.NO_QUANT: _Way(),
    Quantisation.WEIGHTS_INT8: _Way(algorithm="W8A16"),
    Quantisation.WEIGHTS_KV_INT8: _Way(algorithm="W8A16", calibrated=True),
    Quantisation.WEIGHTS_INT4: _Way(algorithm="W4A16"),
    Quantisation.WEIGHTS_INT4_KV_INT8: _Way(algorithm="W4A16", calibrated=True),
    Quantisation.SMOOTH_QUANT: _Way(algorithm="W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", calibrated=True),
    Quantisation.FP8: _Way("fp8", "none", "FP8", calibrated=True),
    Quantisation.FP8_KV: _Way("fp8", "fp8", "FP8", calibrated=True),
    Quantisation.FP8_MLP_ONLY: None,
    Quantisation.FP4: _Way("nvfp4", "none", "NVFP4", calibrated=True),
    Quantisation.FP4_KV: _Way("nvfp4", "fp8", "NVFP4", calibrated=True),
    Quantisation.FP4_MLP_ONLY: None,
}


def plan_of(truss: Truss) -> BuildPlan | None:
    """The plan of a config without errors; None if it has no engine."""
    if truss.section is None:
        return None
    return _of_engine(truss, truss.section) if isinstance(truss.section, SectionV1) else _of_model(truss, truss.section)


def _of_engine(truss: Truss, section: SectionV1) -> BuildPlan:
    release = _release(section.version_overrides.engine_builder_version)
    shared = _shared(truss, section.build)
    return BuildPlan(
        kind="tensorrt-llm",
        release=release,
        image=f"{IMAGE}:{release}",
        tp=1 if section.build.base_model in ENCODERS else section.build.tensor_parallel_count,
        pp=1 if section.build.base_model in ENCODERS else section.build.pipeline_parallel_count,
        convert=_experts(section.build),
        engine=_engine_options(section.build, release),
        lookahead=_lookahead(section.build),
        adapters={name: _address(item) for name, item in (section.build.lora_adapters or {}).items()},
        runtime=_said(section.runtime),
        missing=(
            *_missing(section.build),
            *_missing_of_v1(section.build),
            *_missing_release(release, shared["format"]),
        ),
        **shared,
    )


def _of_model(truss: Truss, section: SectionV2) -> BuildPlan:
    runtime = section.runtime
    limits = ("max_seq_len", "max_batch_size", "max_num_tokens", "enable_chunked_prefill")
    said = {name: getattr(runtime, name) for name in limits if getattr(runtime, name) is not None}
    shared = _shared(truss, section.build)
    return BuildPlan(
        kind="tensorrt-llm-pytorch",
        release=RELEASE,
        image=f"{IMAGE}:{RELEASE}",
        tp=runtime.tensor_parallel_size,
        pp=1,
        engine={**said, **runtime.patch_kwargs},
        runtime={"served_model_name": runtime.served_model_name} if runtime.served_model_name else {},
        missing=tuple(_missing(section.build)),
        **shared,
    )


def _shared(truss: Truss, build: EngineBuild) -> dict[str, Any]:
    """What both stacks read from `build` and the accelerator."""
    name = truss.config.resources.accelerator.accelerator
    way = _WAYS[build.quantization_type] or _Way()
    repository = build.checkpoint_repository
    return {
        "accelerator": name.value if name is not None else "",
        "gpus": build.num_builder_gpus or truss.config.resources.accelerator.count,
        "sm": SM.get(name, 0) if name is not None else 0,
        "snapshot": _address(repository) if repository is not None else None,
        "family": family_of(repository, truss.folder).name if repository is not None else "",
        "quantisation": build.quantization_type.value,
        "format": way.format,
        "cache": way.cache,
        "algorithm": way.algorithm,
        "samples": _samples(build.quantization_config) if way.calibrated else None,
    }


def _release(version: str | None) -> str:
    """The release of TensorRT-LLM in a version of the builder's image, such as ``0.20.0.post8.dev1``."""
    match = re.match(r"\d+\.\d+\.\d+", version or "")
    return match[0] if match is not None else RELEASE


def _address(repository: Repository) -> Address:
    repo, secret = repository.repo, repository.runtime_secret_name
    if repository.source is Source.HF:
        return Address(f"hf://{repo}@{repository.revision or 'main'}", secret)
    if repository.source in {Source.S3, Source.GCS}:
        scheme = "s3" if repository.source is Source.S3 else "gs"
        return Address(f"{scheme}://{repo.removeprefix(f'{scheme}://').rstrip('/')}/", secret)
    return Address(repo, secret)


def _samples(calibration: Calibration) -> Samples:
    """Texts of the data set's part for training, as Truss takes them; the news are in a column of their own."""
    news = calibration.calib_dataset in {_NEWS, f"abisee/{_NEWS}"}
    return Samples(
        dataset=f"abisee/{_NEWS}" if news else calibration.calib_dataset,
        files="3.0.0/train*" if news else "*train*",
        column="article" if news else "text",
        count=calibration.calib_size,
        max_length=calibration.calib_max_seq_length,
    )


def _experts(build: EngineBuild) -> dict[str, Any]:
    experts = build.moe_expert_parallel_option
    if experts <= 0:
        return {}
    return {"moe_ep_size": experts, "moe_tp_size": build.tensor_parallel_count // experts}


def _engine_options(build: EngineBuild, release: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_batch_size": build.max_batch_size,
        "max_num_tokens": build.tokens,
        "max_beam_width": build.max_beam_width,
        "use_paged_context_fmha": _switch(build.plugins.use_paged_context_fmha),
        "use_fp8_context_fmha": _switch(build.quantization_type in {Quantisation.FP8_KV, Quantisation.FP4_KV}),
    }
    paged = build.plugins.paged_kv_cache
    if release.startswith("0.12."):  # the option has its present name and values since 0.13
        options["paged_kv_cache"] = _switch(paged)
    else:
        options["kv_cache_type"] = "paged" if paged else "continuous"
    if build.max_seq_len is not None:
        options["max_seq_len"] = build.max_seq_len
    if build.max_prompt_embedding_table_size:
        options["max_prompt_embedding_table_size"] = build.max_prompt_embedding_table_size
    if build.gather_all_token_logits:
        options["gather_all_token_logits"] = True
    return dict(sorted({**options, **_speculation(build), **_lora(build)}.items()))


def _switch(value: bool) -> str:
    return "enable" if value else "disable"


def _speculation(build: EngineBuild) -> dict[str, Any]:
    if build.speculator is None or build.speculator.draft_tokens is None:
        return {}
    return {"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": build.speculator.draft_tokens}


def _lookahead(build: EngineBuild) -> dict[str, int]:
    """How the engine is told to draft; nothing where it was given room for more tokens than the sizes draft."""
    said = build.speculator
    if said is None or said.lookahead_tokens is None or said.draft_tokens != said.lookahead_tokens:
        return {}
    sizes = (
        said.lookahead_windows_size or 0,
        said.lookahead_ngram_size or 0,
        said.lookahead_verification_set_size or 0,
    )
    return dict(zip(Lookahead.model_fields, sizes, strict=True)) if min(sizes[:2]) > 1 else {}


def _lora(build: EngineBuild) -> dict[str, Any]:
    if not build.lora_adapters:
        return {}
    lora = build.lora_configuration
    targets = {"lora_target_modules": list(lora.lora_target_modules)} if lora and lora.lora_target_modules else {}
    return {"lora_plugin": "auto", "max_lora_rank": lora.max_lora_rank if lora else 64, **targets}


def _said(runtime: RuntimeV1 | RuntimeV2) -> dict[str, Any]:
    """What the config itself says of serving; numbers with a fraction as text, as everywhere in hermetic."""
    said = runtime.model_dump(mode="json", exclude_unset=True)
    return {name: str(value) if isinstance(value, float) else value for name, value in sorted(said.items())}


_SOURCES: Final = {
    Source.AZURE: "fetching from Azure",
    Source.REMOTE_URL: "unpacking an archive from an address",
    Source.BASETEN_TRAINING: "fetching from Baseten's training jobs",
}


def _missing(build: EngineBuild) -> Iterator[Missing]:
    where = "trt_llm.build"
    if _WAYS[build.quantization_type] is None:
        yield Missing(f"{where}.quantization_type", f"{build.quantization_type.value}: all linear layers or none")
    repository = build.checkpoint_repository
    if repository is not None and repository.source in _SOURCES:
        yield Missing(f"{where}.checkpoint_repository.source", _SOURCES[repository.source])
    if repository is None:
        yield Missing(f"{where}.checkpoint_repository", "a checkpoint that something else brings")


def _missing_of_v1(build: EngineBuild) -> Iterator[Missing]:
    where = "trt_llm.build"
    if build.base_model in ENCODERS:
        yield Missing(f"{where}.base_model", f"engines of the kind {build.base_model.value}")
    if build.sequence_parallel_count != 1 and build.base_model not in ENCODERS:
        yield Missing(f"{where}.sequence_parallel_count", "ranks that share a sequence")
    if build.moe_expert_parallel_option > 0 and (_WAYS[build.quantization_type] or _Way()).format:
        yield Missing(f"{where}.moe_expert_parallel_option", "quantised experts spread over ranks")
    lora = build.lora_configuration
    if build.lora_adapters and not (lora and lora.lora_target_modules):
        yield Missing(f"{where}.lora_configuration.lora_target_modules", "finding the adapters' target modules itself")


def _missing_release(release: str, form: str) -> Iterator[Missing]:
    """Releases whose tools' options nobody wrote down; the release that a config gets by itself is none of them."""
    tools = ("trtllm-build",) if form else ("trtllm-build", "convert_checkpoint.py")
    for tool in tools if release != RELEASE else ():
        try:
            table(tool, release)
        except HermeticError as error:
            yield Missing("trt_llm.version_overrides.engine_builder_version", f"{error.message} ({error.hint})")
