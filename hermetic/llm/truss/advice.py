"""What Truss accepts and its author likely did not mean: warnings and notes, none of them a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hermetic.llm.findings import Finding
from hermetic.llm.truss.checks import COMPATIBLE, LEGACY, repositories
from hermetic.llm.truss.families import family_of
from hermetic.llm.truss.hardware import NEEDS, PRODUCTS, least_sm
from hermetic.llm.truss.load import Truss
from hermetic.llm.truss.rules import builds, note, rule, v1, v2, warning
from hermetic.llm.truss.section import ENCODERS, BaseModelKind, Quantisation, RuntimeV2, Source
from hermetic.llm.truss.serving import AcceleratorName

__all__ = ["COMMIT"]

_BUILD: Final = "trt_llm.build"
_OWN: Final = "hermetic"
_BUILDER: Final = "TensorRT-LLM 0.16, tensorrt_llm/builder.py"
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
#: Less memory than this is raised to it by ``truss push``, in bytes.
_LEAST_MEMORY: Final = 10 * 1024**3
_LEGACY_FORMATS: Final = frozenset(
    {
        Quantisation.WEIGHTS_INT8,
        Quantisation.WEIGHTS_KV_INT8,
        Quantisation.WEIGHTS_INT4,
        Quantisation.WEIGHTS_INT4_KV_INT8,
        Quantisation.SMOOTH_QUANT,
    }
)
_INT8_CACHE: Final = frozenset(
    {Quantisation.WEIGHTS_KV_INT8, Quantisation.WEIGHTS_INT4_KV_INT8, Quantisation.SMOOTH_QUANT}
)


@rule()
def nothing_to_build(truss: Truss) -> Iterator[Finding]:
    if truss.section is None and not truss.is_broken("trt_llm"):
        message = "there is no trt_llm section, so there is no engine to build"
        yield warning(truss, "nothing-to-build", "trt_llm", message, source=_OWN)


@rule(f"{_BUILD}.quantization_type")
def old_formats(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        kind = build.quantization_type
        if kind in _LEGACY_FORMATS:
            message = f"{kind.value} is a format of old engines that Baseten's builder no longer takes"
            yield warning(truss, "quantisation-legacy", f"{where}.quantization_type", message, "fp8, fp8_kv or fp4")
        if kind in _INT8_CACHE and build.plugins.use_paged_context_fmha:
            message = f"trtllm-build refuses the 8-bit cache of {kind.value} together with use_paged_context_fmha"
            field = f"{where}.quantization_type"
            yield warning(truss, "int8-cache-with-paged-context", field, message, source=_BUILDER)


@rule(f"{_BUILD}.quantization_config", f"{_BUILD}.quantization_type")
def calibration(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        unused = build.quantization_type is Quantisation.NO_QUANT and "quantization_config" in build.model_fields_set
        if unused:
            message = "nothing is calibrated with quantization_type no_quant"
            yield warning(truss, "calibration-unused", f"{where}.quantization_config", message, source=_OWN)


@rule(f"{_BUILD}.quantization_type", f"{_BUILD}.num_builder_gpus")
def builder_gpus(truss: Truss) -> Iterator[Finding]:
    if truss.section is None:
        return
    build = truss.section.build
    field = f"{_BUILD}.num_builder_gpus"
    if build.quantization_type.value.startswith("fp8") and build.num_builder_gpus is None:
        message = "quantising to FP8 holds the whole model in 16 bits, which may need more GPUs than serving it"
        yield warning(truss, "builder-gpus-unsaid", field, message, "num_builder_gpus: 2, for example")
    if build.num_builder_gpus is not None and build.num_builder_gpus < build.world_size:
        message = f"{build.num_builder_gpus} for {build.world_size} ranks, which are built one after another"
        yield warning(truss, "builder-gpus-few", field, message, source=_OWN)


@rule(f"{_BUILD}.quantization_type", "trt_llm.version_overrides")
def builder_version(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    version = section.version_overrides.engine_builder_version if section else None
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if section is None or numbers is None:
        return
    if least_sm(section.build.quantization_type) == NEEDS["fp4"] and (int(numbers[1]), int(numbers[2])) < (0, 17):
        field = "trt_llm.version_overrides.engine_builder_version"
        message = f"{section.build.quantization_type.value} came with TensorRT-LLM 0.17; this is {version}"
        yield warning(truss, "builder-too-old", field, message, source="TensorRT-LLM 0.17 release notes")


_VERSION_FIELDS: Final = {
    BaseModelKind.ENCODER: "bei_version",
    BaseModelKind.ENCODER_BERT: "bei_bert_version",
}


@rule("trt_llm.version_overrides", f"{_BUILD}.base_model")
def unused_versions(truss: Truss) -> Iterator[Finding]:
    if truss.section is None:
        return
    versions = truss.section.version_overrides
    served = _VERSION_FIELDS.get(truss.section.build.base_model, "briton_version")
    used = {"engine_builder_version", served} if v1(truss) else {"v2_llm_version"}
    for name in type(versions).model_fields:
        if getattr(versions, name) is not None and name not in used:
            message = f"this config has no use for it; it is built and served with {', '.join(sorted(used))}"
            yield warning(truss, "version-unused", f"trt_llm.version_overrides.{name}", message, source=_OWN)


@rule(f"{_BUILD}.speculator", f"{_BUILD}.max_batch_size")
def speculation(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        if build.speculator is None:
            continue
        if build.max_batch_size > 64:
            message = f"guessing ahead pays in small batches; this one is {build.max_batch_size}"
            yield warning(truss, "speculation-batch", f"{where}.max_batch_size", message, "64 or less")
        if (build.speculator.draft_tokens or 0) > 512:
            message = f"{build.speculator.draft_tokens} draft tokens in a step are slow"
            hint = "windows of 7, n-grams of 5 and verification sets of 3 guess 39"
            yield warning(truss, "draft-tokens-many", f"{where}.speculator", message, hint)


@rule(f"{_BUILD}.moe_expert_parallel_option", f"{_BUILD}.tensor_parallel_count")
def experts(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        option = build.moe_expert_parallel_option
        if 0 < option <= build.tensor_parallel_count and build.tensor_parallel_count % option:
            message = f"tensor_parallel_count {build.tensor_parallel_count} is no multiple of {option}"
            yield warning(truss, "uneven-experts", f"{where}.moe_expert_parallel_option", message)


@rule(f"{_BUILD}.base_model", f"{_BUILD}.quantization_type", f"{_BUILD}.max_seq_len")
def encoders(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    if section is None or section.build.base_model not in ENCODERS:
        return
    build = section.build
    for name in ("tensor_parallel_count", "pipeline_parallel_count", "sequence_parallel_count"):
        if getattr(build, name) != 1:
            message = f"an encoder is built for one GPU; {getattr(build, name)} is not used"
            yield warning(truss, "encoder-one-gpu", f"{_BUILD}.{name}", message, "leave it out")
    if build.base_model is BaseModelKind.ENCODER and build.max_seq_len is not None:
        message = "the length of an embedding model is that of its checkpoint"
        yield note(truss, "length-unused", f"{_BUILD}.max_seq_len", message)
    if build.base_model is BaseModelKind.ENCODER and build.quantization_type.value.endswith("_kv"):
        message = "an encoder has no cache of keys and values to quantise"
        yield warning(truss, "encoder-cache", f"{_BUILD}.quantization_type", message)


@rule(f"{_BUILD}.lora_adapters", f"{_BUILD}.lora_configuration", f"{_BUILD}.base_model")
def lora(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        if build.lora_configuration is not None and not build.lora_adapters:
            message = "without lora_adapters it has no effect"
            yield warning(truss, "lora-unused", f"{where}.lora_configuration", message, source=_OWN)
        if build.lora_adapters and build.base_model in ENCODERS:
            message = "adapters are for decoders"
            yield warning(truss, "lora-on-encoder", f"{where}.lora_adapters", message)


@rule(f"{_BUILD}.max_seq_len", f"{_BUILD}.max_num_tokens", "trt_llm.runtime")
def lengths(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    if section is None or section.build.base_model in ENCODERS:
        return
    length, tokens = section.build.max_seq_len, section.build.tokens
    if length is not None and not section.runtime.enable_chunked_context and tokens < length:
        message = f"without chunked context no prompt can be longer than max_num_tokens, {tokens}, of {length}"
        yield warning(truss, "tokens-below-length", f"{_BUILD}.max_num_tokens", message, source=_OWN)
    default, field = section.runtime.request_default_max_tokens, "trt_llm.runtime.request_default_max_tokens"
    if length is not None and default is not None and default > length:
        message = f"{default} tokens do not fit into max_seq_len, {length}"
        yield warning(truss, "default-beyond-length", field, message, source=_OWN)


@rule("trt_llm.runtime.kv_cache_free_gpu_mem_fraction")
def cache_fraction(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    fraction = section.runtime.kv_cache_free_gpu_mem_fraction if section else 0.5
    if not 0 < fraction <= 1:
        message = f"{fraction} is no part of the free memory: above 0 and at most 1"
        yield warning(truss, "bad-fraction", "trt_llm.runtime.kv_cache_free_gpu_mem_fraction", message, source=_OWN)


@rule("resources", "trt_llm.runtime")
def v2_gpus(truss: Truss) -> Iterator[Finding]:
    section, resources = v2(truss), truss.config.resources
    if section is None or resources.accelerator.accelerator is None:
        return
    there = resources.accelerator.count * (resources.node_count or 1)
    if section.runtime.tensor_parallel_size > there:
        message = f"{section.runtime.tensor_parallel_size} GPUs are wanted, {there} are there"
        yield warning(truss, "world-size", "trt_llm.runtime.tensor_parallel_size", message, source=_OWN)


@rule("trt_llm.runtime.patch_kwargs")
def patches(truss: Truss) -> Iterator[Finding]:
    section = v2(truss)
    known = {"build_config", *RuntimeV2.model_fields}
    for name in section.runtime.patch_kwargs if section else ():
        if name in known:
            field = "trt_llm.runtime.patch_kwargs"
            hint = f"trt_llm.runtime.{name}" if name != "build_config" else "leave it out"
            yield warning(truss, "patch-of-a-field", field, f"{name} has a field of its own", hint)


@rule(f"{_BUILD}.plugin_configuration")
def plugins(truss: Truss) -> Iterator[Finding]:
    for where, build in builds(truss):
        if "use_fp8_context_fmha" in build.plugin_configuration.model_fields_set:
            field = f"{where}.plugin_configuration.use_fp8_context_fmha"
            message = "it follows from quantization_type; what is written here changes nothing"
            yield note(truss, "follows-from-quantisation", field, message)


@rule("model_metadata", f"{_BUILD}.base_model")
def tags(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    if section is None or section.build.base_model in ENCODERS:
        return
    if LEGACY in truss.config.tags:
        yield warning(truss, "tag-legacy", "model_metadata.tags", f"{LEGACY} is deprecated", f"tags: [{COMPATIBLE}]")
    elif COMPATIBLE not in truss.config.tags:
        message = f"truss push will add the tag {COMPATIBLE} to the file"
        yield note(truss, "tag-missing", "model_metadata.tags", message)


@rule("resources")
def resources(truss: Truss) -> Iterator[Finding]:
    if truss.section is None:
        return
    given = truss.config.resources
    if given.instance_type is not None:
        message = "truss push then reads neither cpu, memory nor accelerator; hermetic reads accelerator"
        yield note(truss, "instance-type", "resources.instance_type", message)
    elif given.accelerator.accelerator is None:
        message = "which GPU the engine is for is part of what it is"
        yield warning(truss, "no-accelerator", "resources.accelerator", message, "accelerator: H100", source=_OWN)
    if given.memory_bytes < _LEAST_MEMORY:
        message = f"{given.memory} is less than a build gets; truss push makes it 10Gi"
        yield note(truss, "memory-raised", "resources.memory", message)


@rule("resources.accelerator")
def unknown_product(truss: Truss) -> Iterator[Finding]:
    name = truss.config.resources.accelerator.accelerator
    if v1(truss) is not None and name is not None and name.value not in PRODUCTS:
        message = f"hermetic does not know what the driver calls a {name.value}, and that is part of an engine's key"
        hint = "realise it with --set gpu=NAME,GIB,SM as hermetic doctor shows them on such a machine"
        yield note(truss, "gpu-unknown", "resources.accelerator", message, hint, _OWN)


@rule("resources.accelerator", f"{_BUILD}.quantization_type")
def old_encoder(truss: Truss) -> Iterator[Finding]:
    if truss.section is None or truss.section.build.base_model is not BaseModelKind.ENCODER_BERT:
        return
    name, kind = truss.config.resources.accelerator.accelerator, truss.section.build.quantization_type
    if name in {AcceleratorName.T4, AcceleratorName.V100} and least_sm(kind):
        message = f"{name.value} does not compute in {kind.value}; Truss lets it pass"
        yield warning(truss, "quantisation-unsupported", f"{_BUILD}.quantization_type", message, source=_OWN)


_PREFIXES: Final = {Source.GCS: "gs://", Source.S3: "s3://", Source.AZURE: "azure://", Source.REMOTE_URL: "https://"}


@rule()
def checkpoint_sources(truss: Truss) -> Iterator[Finding]:
    for where, item in repositories(truss):
        if truss.is_broken(where):
            continue
        if item.source is Source.LOCAL:
            yield warning(truss, "source-local", f"{where}.source", "Baseten's builder sees no local files")
        prefix = _PREFIXES.get(item.source)
        if prefix is not None and not item.repo.startswith(prefix):
            yield warning(truss, "bad-address", f"{where}.repo", f"it does not begin with {prefix}", source=_OWN)
        if item.source is Source.HF and COMMIT.fullmatch(item.revision or "") is None:
            message = f"{item.revision or 'the default branch'} may move; the lock file says which commit is meant"
            yield note(truss, "revision-floats", f"{where}.revision", message, f"hermetic lock {truss.file}", _OWN)


@rule("environment_variables")
def variables(truss: Truss) -> Iterator[Finding]:
    for name, value in truss.config.environment_variables.items():
        field = f"environment_variables.{name}"
        if name in {"PORT", "HOSTNAME"}:
            yield warning(truss, "variable-reserved", field, "the platform sets it itself")
        if not isinstance(value, str):
            message = f"YAML reads a {type(value).__name__} here; the server will see {truss.config.variables[name]!r}"
            yield warning(truss, "variable-not-text", field, message, "write the value in quotes", _OWN)


@rule("python_version")
def python(truss: Truss) -> Iterator[Finding]:
    if truss.config.python_version == "py39":
        yield warning(truss, "python-old", "python_version", "Python 3.9 is deprecated")


@rule()
def old_names(truss: Truss) -> Iterator[Finding]:
    data = truss.document.data
    if isinstance(data, dict) and "hf_cache" in data:
        yield warning(truss, "renamed-field", "hf_cache", "it is called model_cache now", "model_cache")


@rule(f"{_BUILD}.checkpoint_repository")
def families(truss: Truss) -> Iterator[Finding]:
    section = v1(truss)
    repository = section.build.checkpoint_repository if section else None
    if section is None or repository is None:
        return
    for code, field, message in family_of(repository, truss.folder).advice(section.build):
        yield warning(truss, code, f"{_BUILD}.{field}", message)
