"""What ``hermetic lint`` says of Triton repositories, and of a policy's promises to who is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.openvino import Engine as OpenVinoEngine
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.tensorrt_llm import Engine
from hermetic.llm.triton import Repository
from hermetic.recipe import Recipe

__all__ = ["findings", "promises"]

_LIMITS: Final = ("max_seq_len", "max_batch_size")
_QUEUE: Final = {"max_queue_delay_microseconds": "queue_delay_us", "max_queue_size": "queue_size"}
_TEMPLATE: Final = "tensorrtllm_backend, all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt"


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Of every repository of `recipe`, at the line that makes it."""
    for stage, name in recipe.names.items():
        if isinstance(stage, Repository):
            place = stage.where
            for found in (*_queue(stage), *_limits(stage), *_manifest(stage), *_other_kinds(stage)):
                yield replace(
                    found,
                    where=f"{name}: {found.where}",
                    file=place.file if place else "",
                    line=place.line if place else 0,
                )


def _queue(stage: Repository) -> Iterator[Finding]:
    for key, ours in _QUEUE.items():
        if key in stage.parameters:
            message = f"{key} is no parameter of the model: it belongs into dynamic_batching"
            hint = f"{ours}={stage.parameters[key]}"
            yield Finding("queue-parameter", Severity.ERROR, f"parameters.{key}", message, hint, _TEMPLATE)


def _limits(stage: Repository) -> Iterator[Finding]:
    if not isinstance(stage.engine, Engine):
        return
    for name in _LIMITS:
        wanted, most = getattr(stage, name), stage.engine.options.get(name)
        if isinstance(most, int) and wanted > most:
            message = f"{name} is {wanted}, and the engine is built with {most}"
            yield Finding("repository-over-engine", Severity.ERROR, name, message, f"{name}={most}, or another engine")


def _manifest(stage: Repository) -> Iterator[Finding]:
    if stage.manifest is None:
        message = "no manifest is given, so its engine is promised as it is found when the repository is made"
        yield Finding("repository-without-manifest", Severity.NOTE, "manifest", message, "manifest=Manifest(...)")


def _other_kinds(stage: Repository) -> Iterator[Finding]:
    if isinstance(stage.engine, OpenVinoEngine | PyTorchModel):
        kind = "openvino" if isinstance(stage.engine, OpenVinoEngine) else "tensorrt-llm-pytorch"
        for name in ("queue_delay_us", "queue_size", "parameters"):
            if getattr(stage, name):
                message = f"an engine of the kind {kind} is not served with {name}"
                yield Finding("repository-setting", Severity.ERROR, name, message, "leave it out")


def promises(limits: Mapping[str, int], *, max_tokens: int = 0, max_prompt_tokens: int = 0) -> Iterator[Finding]:
    """Where a policy promises more tokens than the deployment's `limits` let through (0: it promises nothing).

    `max_tokens` is prompt and answer together.
    """
    for name, promised, limit in (
        ("max_tokens", max_tokens, limits.get("max_seq_len", 0)),
        ("max_prompt_tokens", max_prompt_tokens, limits.get("max_input_len", limits.get("max_seq_len", 0))),
    ):
        if limit and promised > limit:
            message = f"{name} is {promised}, and the engine refuses more than {limit}"
            hint = f"{name}: {limit}, or an engine that was built for {promised}"
            yield Finding("policy-over-engine", Severity.ERROR, name, message, hint)
