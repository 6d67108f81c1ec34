"""What the fields of a config say about each other: the rules that ``truss push`` refuses by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hermetic.llm.findings import Finding
from hermetic.llm.truss.hardware import SM, least_sm
from hermetic.llm.truss.load import Truss
from hermetic.llm.truss.rules import builds, error, rule, v1, v2
from hermetic.llm.truss.section import (
    ENCODERS,
    BaseModelKind,
    EngineBuild,
    Repository,
    Source,
    SpeculationMode,
    Speculator,
)
from hermetic.llm.truss.serving import AcceleratorName

__all__ = ["COMPATIBLE", "LEGACY", "repositories"]

#: Tags of which an engine that generates text has exactly one.
COMPATIBLE: Final = "openai-compatible"
LEGACY: Final = "force-legacy-api-non-openai-compatible"

_BUILD: Final = "trt_llm.build"
_MODEL: Final = f"{_BUILD}.base_model"
_ACCELERATOR: Final = "resources.accelerator"
_PLUGINS: Final = f"{_BUILD}.plugin_configuration"
_COUNTS: Final = tuple(f"{_BUILD}.{kind}_parallel_count" for kind in ("tensor", "pipeline", "sequence"))
_RENAMED: Final = frozenset({"palmyra", "qwen", "llama", "mistral", "deepseek"})
_MOST_DRAFT_TOKENS: Final = 2048
#: A Hub's names: one or two parts of at most 96 of these characters that begin and end with a letter, digit or _.
_REPOSITORY: Final = re.compile(r"(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)


@rule(_MODEL)
def base_model(truss: Truss) -> Iterator[Finding]:
    kind = truss.section.build.base_model if truss.section else BaseModelKind.DECODER
    if kind.value in _RENAMED:
        message = f"{kind.value} is called decoder now; the family is read from the checkpoint"
        yield error(truss, "base-model-renamed", _MODEL, message, "base_model: decoder")
    if kind is BaseModelKind.WHISPER:
        yield error(truss, "whisper-moved", _MODEL, "Whisper is served by a Chain and no longer by a config")


@rule(_ACCELERATOR, _MODEL)
def old_accelerator(truss: Truss) -> Iterator[Finding]:
    name = truss.config.resources.accelerator.accelerator
    if truss.section is None or name not in {AcceleratorName.T4, AcceleratorName.V100}:
        return
    if truss.section.build.base_model is not BaseModelKind.ENCODER_BERT:
        message = f"TensorRT-LLM needs compute capability 8.0; {name.value} has {SM[name] / 10}"
        yield error(truss, "accelerator-too-old", _ACCELERATOR, message, "A10G and A100 are the oldest")


@rule(_ACCELERATOR, _MODEL, f"{_BUILD}.quantization_type")
def quantisation(truss: Truss) -> Iterator[Finding]:
    name = truss.config.resources.accelerator.accelerator
    if truss.section is None or name is None or name not in SM or SM[name] < SM[AcceleratorName.A100]:
        return  # what is too old for everything is said elsewhere
    needed = least_sm(truss.section.build.quantization_type)
    if SM[name] < needed:
        kind = truss.section.build.quantization_type.value
        message = f"{kind} needs compute capability {needed / 10}; {name.value} has {SM[name] / 10}"
        able = ", ".join(item.value for item, sm in SM.items() if sm >= needed)
        yield error(truss, "quantisation-unsupported", f"{_BUILD}.quantization_type", message, f"accelerators: {able}")


@rule(*_COUNTS, _MODEL, _ACCELERATOR)
def world_size(truss: Truss) -> Iterator[Finding]:
    section, count = v1(truss), truss.config.resources.accelerator.count
    if section is None or section.build.base_model is not BaseModelKind.DECODER:
        return
    build = section.build
    if build.world_size != count:
        parts = (build.tensor_parallel_count, build.pipeline_parallel_count, build.sequence_parallel_count)
        product = " × ".join(map(str, parts))
        message = f"the engine's ranks are {product} = {build.world_size}, the accelerator's count is {count}"
        hint = "tensor_parallel_count × pipeline_parallel_count × sequence_parallel_count must be that count"
        yield error(truss, "world-size", f"{_BUILD}.tensor_parallel_count", message, hint)


@rule(f"{_BUILD}.checkpoint_repository", f"{_BUILD}.skip_build_result")
def checkpoint(truss: Truss) -> Iterator[Finding]:
    if truss.section is None or truss.section.build.checkpoint_repository is not None:
        return
    if v1(truss) is not None or not truss.section.build.skip_build_result:
        hint = "" if v1(truss) else "or skip_build_result: true"
        yield error(truss, "checkpoint-missing", f"{_BUILD}.checkpoint_repository", "it must be set", hint)


def repositories(truss: Truss) -> Iterator[tuple[str, Repository]]:
    """Every repository that the section names, with its path."""
    for where, build in builds(truss):
        if build.checkpoint_repository is not None:
            yield f"{where}.checkpoint_repository", build.checkpoint_repository
        if build.speculator is not None and build.speculator.checkpoint_repository is not None:
            yield f"{where}.speculator.checkpoint_repository", build.speculator.checkpoint_repository
        for name, adapter in (build.lora_adapters or {}).items():
            yield f"{where}.lora_adapters.{name}", adapter


@rule()
def repository_names(truss: Truss) -> Iterator[Finding]:
    for where, item in repositories(truss):
        if item.source is not Source.HF or truss.is_broken(where):
            continue
        dubious = "--" in item.repo or ".." in item.repo or item.repo.endswith(".git")
        if dubious or _REPOSITORY.fullmatch(item.repo) is None:
            message = f"{item.repo!r} is no repository of a Hub"
            yield error(truss, "bad-repository", f"{where}.repo", message, "owner/name")


@rule(_PLUGINS, _MODEL)
def cache_flags(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        if build.plugins.use_paged_context_fmha and not build.plugins.paged_kv_cache:
            field = f"{where}.plugin_configuration.use_paged_context_fmha"
            yield error(truss, "paged-context-without-paged-cache", field, "it needs paged_kv_cache")


@rule("trt_llm.runtime.enable_chunked_context", _PLUGINS, _MODEL)
def chunked_context(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    if section is None or section.build.base_model in ENCODERS or not section.runtime.enable_chunked_context:
        return
    plugins = section.build.plugins
    if not (plugins.use_paged_context_fmha and plugins.paged_kv_cache):
        message = "it needs paged_kv_cache and use_paged_context_fmha"
        hint = "enable_chunked_context: false, if the plug-ins are off on purpose"
        yield error(truss, "chunked-context-without-paging", "trt_llm.runtime.enable_chunked_context", message, hint)


@rule(f"{_BUILD}.speculator", _PLUGINS, _MODEL)
def speculation(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        if build.speculator is None:
            continue
        if not (build.plugins.use_paged_context_fmha and build.plugins.paged_kv_cache):
            message = "guessing ahead needs a cache that is reused: paged_kv_cache and use_paged_context_fmha"
            yield error(truss, "speculation-without-paging", f"{where}.speculator", message)
        yield from _mode(truss, f"{where}.speculator", build.speculator)


def _mode(truss: Truss, where: str, speculator: Speculator) -> Iterator[Finding]:
    if speculator.speculative_decoding_mode is SpeculationMode.DRAFT_TOKENS_EXTERNAL:
        field = f"{where}.speculative_decoding_mode"
        message = "draft models beside the engine are no longer served"
        yield error(truss, "draft-discontinued", field, message, "LOOKAHEAD_DECODING, or inference_stack: v2")
        return
    needed = speculator.lookahead_tokens
    if needed is None:
        names = ("lookahead_windows_size", "lookahead_ngram_size", "lookahead_verification_set_size")
        for name in names:
            if getattr(speculator, name) is None:
                hint = "(window, n-gram, verification set) of (8, 3, 3), (5, 5, 5) or (7, 5, 3) are common"
                yield error(truss, "lookahead-incomplete", f"{where}.{name}", "lookahead decoding needs it", hint)
        return
    yield from _draft_tokens(truss, f"{where}.num_draft_tokens", speculator, needed)


def _draft_tokens(truss: Truss, where: str, speculator: Speculator, needed: int) -> Iterator[Finding]:
    count = speculator.draft_tokens or 0
    if count == 0:
        message = "with n-grams of one nothing is guessed unless it is set"
        yield error(truss, "draft-tokens-too-few", where, message, "num_draft_tokens: 61, for example")
    elif count < needed:
        message = f"{count} are too few: these sizes guess up to {needed} tokens in a step"
        yield error(truss, "draft-tokens-too-few", where, message, f"leave it out, and it is {needed}")
    if count > _MOST_DRAFT_TOKENS:
        message = f"{count} tokens in a step; at most {_MOST_DRAFT_TOKENS} are served"
        yield error(truss, "draft-tokens-too-many", where, message, "smaller windows, n-grams or verification sets")


@rule(f"{_BUILD}.moe_expert_parallel_option", _COUNTS[0], _MODEL)
def experts(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        option = build.moe_expert_parallel_option
        if build.base_model is not BaseModelKind.DECODER or option == -1:
            continue
        field = f"{where}.moe_expert_parallel_option"
        if option <= 0:
            yield error(truss, "bad-expert-parallelism", field, f"{option} is neither positive nor -1")
        elif option > build.tensor_parallel_count:
            message = f"{option} is more than tensor_parallel_count, {build.tensor_parallel_count}"
            yield error(truss, "bad-expert-parallelism", field, message)


#: What ``v2`` lets `build` say; anything else must have its default.
_V2_FIELDS: Final = frozenset(
    {"checkpoint_repository", "quantization_type", "quantization_config", "skip_build_result", "num_builder_gpus"}
)


@rule()
def v2_build(truss: Truss) -> Iterator[Finding]:
    section = v2(truss)
    if section is None:
        return
    plain = EngineBuild()
    for name in sorted(section.build.model_fields_set - _V2_FIELDS):
        if not _is_plain(section.build, plain, name):
            hint = _V2_PLACES.get(name, "leave it out")
            yield error(truss, "not-in-v2", f"{_BUILD}.{name}", "inference_stack v2 does not take it", hint)


_V2_PLACES: Final = {
    "max_seq_len": "trt_llm.runtime.max_seq_len",
    "max_batch_size": "trt_llm.runtime.max_batch_size",
    "max_num_tokens": "trt_llm.runtime.max_num_tokens",
    "tensor_parallel_count": "trt_llm.runtime.tensor_parallel_size",
    "speculator": "speculation is set through trt_llm.runtime.patch_kwargs",
}


def _is_plain(build: EngineBuild, plain: EngineBuild, name: str) -> bool:
    """Whether a field has its default. Truss compares mappings as written, so half of one counts as a change."""
    if name == "plugin_configuration":
        plugins = build.plugin_configuration
        return plugins == plain.plugin_configuration and plugins.model_fields_set == set(type(plugins).model_fields)
    return bool(getattr(build, name) == getattr(plain, name))


@rule("trt_llm.runtime.lora_cache_max_adapter_size", "trt_llm.runtime.lora_cache_optimal_adapter_size")
def lora_cache(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    if section is None:
        return
    most, best = section.runtime.lora_cache_max_adapter_size, section.runtime.lora_cache_optimal_adapter_size
    if most is not None and best is not None and best > most:
        field = "trt_llm.runtime.lora_cache_optimal_adapter_size"
        yield error(truss, "lora-cache-size", field, f"{best} is more than lora_cache_max_adapter_size, {most}")


@rule("model_metadata", f"{_BUILD}.speculator", _MODEL)
def tags(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    if section is None or section.build.base_model in ENCODERS:
        return
    given = truss.config.model_metadata.get("tags", [])
    found = {tag for tag in (COMPATIBLE, LEGACY) if isinstance(given, (list, str, dict)) and tag in given}
    if not isinstance(given, list) and not found:
        yield error(truss, "wrong-type", "model_metadata.tags", "tags are a list")
    elif len(found) == 2:
        message = f"{COMPATIBLE} and {LEGACY} exclude each other"
        yield error(truss, "tags-contradict", "model_metadata.tags", message)
    elif section.build.speculator is not None and LEGACY in found:
        message = f"an engine that guesses ahead is not served with {LEGACY}"
        yield error(truss, "tags-contradict", "model_metadata.tags", message, f"tags: [{COMPATIBLE}]")
