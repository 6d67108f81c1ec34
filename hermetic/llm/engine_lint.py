"""What ``hermetic lint`` says of TensorRT-LLM engines: options, images, model families, quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hermetic.llm import memory, pytorch, tensorrt_llm
from hermetic.llm.drivers import cuda_of
from hermetic.llm.findings import Finding, Severity
from hermetic.llm.origins import origins
from hermetic.llm.quantise import Quantise
from hermetic.llm.smoke import Smoke
from hermetic.llm.support import FORMATS, Target, refusals
from hermetic.llm.support.releases import (
    First,
    contents,
    cuda_for,
    first_release,
    first_release_of_model,
    is_older,
    numbers,
)
from hermetic.llm.tensorrt_llm import Engine
from hermetic.llm.triton import Repository
from hermetic.recipe import Image, Recipe, Source, Stage

__all__ = ["findings", "untested"]

_LAYOUT: Final = "NVIDIA/TensorRT-LLM builder.py, Engine.save: config.json and one rank<N>.engine for each rank"


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Of every engine of `recipe`, at the line that makes it."""
    for engine, name in recipe.names.items():
        if isinstance(engine, Engine):
            for found in (
                *engine.findings(),
                *_image(engine),
                *_gpu(engine),
                *_family(engine),
                *_quantised(engine),
                *_plan(engine),
            ):
                yield _placed(found, engine, name)


def untested(recipe: Recipe) -> Iterator[Finding]:
    """Manifests and repositories that would exist although the recipe's own smoke test of the engine fails."""
    tests: dict[Stage | Source, str] = {
        test.engine: name for test, name in recipe.names.items() if isinstance(test, Smoke)
    }
    for stage, name in recipe.names.items():
        if not isinstance(stage, tensorrt_llm.Manifest | pytorch.Manifest | Repository) or stage.engine not in tests:
            continue
        if not any(isinstance(one, Smoke) and one.engine is stage.engine for one in _needed(stage)):
            message = f"it is made even if {tests[stage.engine]}, the smoke test of its engine, fails"
            hint = f"smoke={tests[stage.engine]}"
            yield _placed(Finding("published-untested", Severity.WARNING, "smoke", message, hint), stage, name)


def _needed(stage: Stage) -> Iterator[Stage]:
    """Everything that `stage` is made from."""
    for item in stage.inputs_by_role().values():
        if isinstance(item, Stage):
            yield item
            yield from _needed(item)


def _image(engine: Engine) -> Iterator[Finding]:
    if not isinstance(engine.environment, Image):
        return
    held = contents(engine.environment.reference)
    if held is not None and held.tensorrt_llm != engine.release:
        message = (
            f"the image {engine.environment.reference} holds TensorRT-LLM {held.tensorrt_llm}, not {engine.release}"
        )
        hint = f"release={held.tensorrt_llm!r}, or an image of {engine.release}"
        yield Finding("image-and-release", Severity.ERROR, "release", message, hint, held.source)


def _gpu(engine: Engine) -> Iterator[Finding]:
    """The CUDA of the image against the GPU's compute capability."""
    if engine.gpu is None or not isinstance(engine.environment, Image):
        return
    cuda = cuda_of(engine.environment)
    needed, source = cuda_for(engine.gpu.sm.replace(".", ""))
    if cuda and needed and is_older(cuda, needed):
        message = f"{engine.gpu} needs CUDA {needed}, and {engine.environment.reference} has {cuda}"
        hint = f"an image with CUDA {needed} or later, and the driver that goes with it"
        yield Finding("gpu-and-image", Severity.ERROR, "gpu", message, hint, source)


def _family(engine: Engine) -> Iterator[Finding]:
    """The release against the model that the engine began with: once, for what needs the latest one."""
    needed = [
        (one, of) for one, of in _needed_releases(engine) if one is not None and is_older(engine.release, one.since)
    ]
    if needed:
        first, model = max(needed, key=lambda item: numbers(item[0].since))
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


def _quantised(engine: Engine) -> Iterator[Finding]:
    """What the quantising stage could not know: the options of the engine that is built from it."""
    stage = engine.checkpoint
    if not isinstance(stage, Quantise | tensorrt_llm.Quantise) or stage.format not in FORMATS:
        return
    paged = engine.options.get("use_paged_context_fmha") == "enable"
    export = stage.export if isinstance(stage, Quantise) else "tensorrt_llm"
    sm = engine.gpu.sm if engine.gpu is not None else ""
    for refusal in refusals(Target("tensorrt-llm", sm, paged), stage.format, stage.kv_cache, export):
        yield Finding(
            refusal.reason,
            Severity.ERROR,
            "gpu" if refusal.reason.endswith("for-gpu") else "options.use_paged_context_fmha",
            refusal.message,
            refusal.instead,
            refusal.source,
        )


def _placed(found: Finding, stage: Stage, name: str) -> Finding:
    place = stage.where
    where = f"{name}: {found.where}" if found.where else name
    return replace(found, where=where, file=place.file if place else "", line=place.line if place else 0)
