"""What ``hermetic lint`` says of TensorRT-LLM engines: options, images, model families, quantisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from hermetic.llm import memory, pytorch, tensorrt_llm, whisper
from hermetic.llm.drivers import without_kernels
from hermetic.llm.findings import Finding, Severity
from hermetic.llm.origins import origins
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.quantise import Quantise
from hermetic.llm.smoke import Smoke
from hermetic.llm.support import FORMATS, Target, refusals, unlisted
from hermetic.llm.support.releases import (
    First,
    contents,
    first_release,
    first_release_of_model,
    is_older,
    numbers,
    release_for,
)
from hermetic.llm.tensorrt_llm import Engine
from hermetic.llm.triton import Repository
from hermetic.recipe import Image, Recipe, Source, Stage

__all__ = ["findings", "untested"]

_TESTS: Final = (Smoke, whisper.WhisperSmoke)
_PUBLISHED: Final = (tensorrt_llm.Manifest, pytorch.Manifest, whisper.Manifest, Repository)
_LAYOUT: Final = "NVIDIA/TensorRT-LLM builder.py, Engine.save: config.json and one rank<N>.engine for each rank"


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Of every engine of `recipe`, and of every checkpoint for the LLM API, at the line that makes it."""
    for engine, name in recipe.names.items():
        if isinstance(engine, Engine | PyTorchModel):
            checks: tuple[Callable[[Any], Iterator[Finding]], ...] = (_image, _gpu, _quantised, _listed)
            checks += (_family, _plan) if isinstance(engine, Engine) else ()
            for found in (*engine.findings(), *(one for check in checks for one in check(engine))):
                yield _placed(found, engine, name)


def untested(recipe: Recipe) -> Iterator[Finding]:
    """Manifests and repositories that would exist although the recipe's own smoke test of the engine fails."""
    tests: dict[Stage | Source, str] = {
        test.engine: name for test, name in recipe.names.items() if isinstance(test, _TESTS)
    }
    for stage, name in recipe.names.items():
        if not isinstance(stage, _PUBLISHED) or stage.engine not in tests:
            continue
        if not any(isinstance(one, _TESTS) and one.engine is stage.engine for one in _needed(stage)):
            message = f"it is made even if {tests[stage.engine]}, the smoke test of its engine, fails"
            hint = f"smoke={tests[stage.engine]}"
            yield _placed(Finding("published-untested", Severity.WARNING, "smoke", message, hint), stage, name)


def _needed(stage: Stage) -> Iterator[Stage]:
    """Everything that `stage` is made from."""
    for item in stage.inputs_by_role().values():
        if isinstance(item, Stage):
            yield item
            yield from _needed(item)


def _image(engine: Engine | PyTorchModel) -> Iterator[Finding]:
    image = engine.run_environment
    if not isinstance(image, Image):
        return
    held = contents(image.reference)
    if held is not None and held.tensorrt_llm != engine.release:
        message = f"the image {image.reference} holds TensorRT-LLM {held.tensorrt_llm}, not {engine.release}"
        hint = f"release={held.tensorrt_llm!r}, or an image of {engine.release}"
        yield Finding("image-and-release", Severity.ERROR, "release", message, hint, held.source)


def _gpu(engine: Engine | PyTorchModel) -> Iterator[Finding]:
    """The release and the CUDA of the image against the GPU's compute capability."""
    gpu, image = engine.run_gpu, engine.run_environment
    if gpu is None:
        return
    sm = gpu.sm.replace(".", "")
    first = release_for(sm)
    if first is not None and is_older(engine.release, first.since):
        message = f"TensorRT-LLM {engine.release} is not for {gpu}"
        hint = f"{first.since} is the first for {first.what}"
        yield Finding("gpu-and-release", Severity.ERROR, "gpu", message, hint, first.source)
    found = without_kernels(image, gpu)
    if found is not None:
        yield found


def _family(engine: Engine) -> Iterator[Finding]:
    """The release against the model that the engine began with: once, for what needs the latest one."""
    known = [(one, of) for one, of in _needed_releases(engine) if one is not None]
    never = [(one, of) for one, of in known if not one.since]
    late = [(one, of) for one, of in known if is_older(engine.release, one.since)]
    if never:
        first, model = never[0]
        message = f"no TensorRT-LLM builds engines of {first.what}, as {model} is"
        hint = "hermetic.llm.pytorch.PyTorchModel: TensorRT-LLM loads its checkpoint"
        yield Finding("model-without-engines", Severity.ERROR, "checkpoint", message, hint, first.source)
    elif late:
        first, model = max(late, key=lambda item: numbers(item[0].since))
        message = f"TensorRT-LLM {engine.release} does not know {first.what} of {model}"
        hint = f"{first.since} is the first that does"
        yield Finding("model-and-release", Severity.ERROR, "release", message, hint, first.source)


def _needed_releases(engine: Engine) -> Iterator[tuple[First | None, str]]:
    """By the architectures in ``config.json``, if that is known, and by the names of what is fetched."""
    origin = list(memory.towards(engine))[-1]
    config = memory.config_of(origin) or {}
    if isinstance(origin, Source):
        yield from ((first_release(str(name)), origin.name) for name in config.get("architectures") or ())
    for snapshot in origins(engine).snapshots:
        yield first_release_of_model(snapshot["repository"]), snapshot["repository"]


def _plan(engine: Engine) -> Iterator[Finding]:
    """The build guide's ``.plan``: an engine is a folder."""
    name = engine.name or ""
    if name.endswith(".plan"):
        message = f"{name} is called like a file, and TensorRT-LLM writes a folder: config.json, rank0.engine and so on"
        yield Finding("plan-file", Severity.ERROR, "name", message, f"name={name.removesuffix('.plan')!r}", _LAYOUT)


def _quantised(engine: Engine | PyTorchModel) -> Iterator[Finding]:
    """What the quantising stage could not know: the GPU and the options of the engine that is made from it."""
    stage = engine.checkpoint
    if not isinstance(stage, Quantise | tensorrt_llm.Quantise) or stage.format not in FORMATS:
        return
    compiled = isinstance(engine, Engine)
    paged = engine.options.get("use_paged_context_fmha") == "enable" if compiled else _reuses(engine.options)
    export = stage.export if isinstance(stage, Quantise) else "tensorrt_llm"
    target = Target(
        "tensorrt-llm" if compiled else "tensorrt-llm-pytorch", engine.run_gpu.sm if engine.run_gpu else "", paged
    )
    for refusal in refusals(target, stage.format, stage.kv_cache, export):
        where = "gpu" if refusal.reason.endswith("for-gpu") else "options"
        where = "options.use_paged_context_fmha" if compiled and where == "options" else where
        yield Finding(refusal.reason, Severity.ERROR, where, refusal.message, refusal.instead, refusal.source)


def _listed(engine: Engine | PyTorchModel) -> Iterator[Finding]:
    """A format that the maker's own table does not have for the model."""
    made = next((one.format for one in memory.towards(engine) if isinstance(one, Quantise | tensorrt_llm.Quantise)), "")
    config = memory.config_of(list(memory.towards(engine))[-1]) or {}
    backend = "tensorrt-llm" if isinstance(engine, Engine) else "tensorrt-llm-pytorch"
    for name in config.get("architectures") or () if made else ():
        found = unlisted(backend, str(name), made)
        if found is not None:
            yield Finding(found.reason, Severity.NOTE, "checkpoint", found.message, found.instead, found.source)


def _reuses(options: Mapping[str, Any]) -> bool:
    """Whether the LLM API will use paged-context attention: blocks are reused unless ``kv_cache_config`` says no."""
    config = options.get("kv_cache_config")
    reuse = config.get("enable_block_reuse", True) if isinstance(config, dict) else True
    return bool(reuse or options.get("enable_chunked_prefill"))


def _placed(found: Finding, stage: Stage, name: str) -> Finding:
    place = stage.where
    where = f"{name}: {found.where}" if found.where else name
    return replace(found, where=where, file=place.file if place else "", line=place.line if place else 0)
