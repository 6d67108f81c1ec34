"""What ``hermetic lint`` says of Triton repositories, and of a policy's promises to who is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.openvino import Engine as OpenVinoEngine
from hermetic.llm.policy import Policy
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.tensorrt_llm import Engine
from hermetic.llm.triton import Repository
from hermetic.recipe import Recipe

__all__ = ["findings", "policy_findings", "promises"]

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


def promises(limits: Mapping[str, int], policy: Policy) -> Iterator[Finding]:
    """Where `policy` lets more tokens through than the deployment's `limits` do.

    What it rejects beyond, requests may count on below; a threshold that only alerts promises nothing.
    """
    for name, limit in (
        ("max_tokens", limits.get("max_seq_len", 0)),
        ("max_prompt_tokens", limits.get("max_input_len", limits.get("max_seq_len", 0))),
    ):
        threshold = policy.thresholds.given().get(name)
        if limit and threshold is not None and threshold.action == "reject" and threshold.limit > limit:
            message = f"{name} is {threshold.limit}, and the engine refuses more than {limit}"
            hint = f"{name}: {limit}, or an engine that was built for {threshold.limit}"
            yield Finding("policy-over-engine", Severity.ERROR, f"thresholds.{name}.limit", message, hint)


def policy_findings(recipe: Recipe, policy: Policy) -> Iterator[Finding]:
    """What `policy` promises that a repository of `recipe` can't keep."""
    for stage, name in recipe.names.items():
        if isinstance(stage, Repository):
            for found in promises(_known_limits(stage), policy):
                yield replace(found, where=f"{name}: {found.where}")


def _known_limits(stage: Repository) -> dict[str, int]:
    """The repository's own and the engine's, the smaller of both; what only the built engine knows is missing."""
    options = stage.engine.options if isinstance(stage.engine, Engine) else {}
    limits = {name: most for name in ("max_input_len", "max_seq_len") if isinstance(most := options.get(name), int)}
    if stage.max_seq_len:
        limits["max_seq_len"] = min(stage.max_seq_len, limits.get("max_seq_len", stage.max_seq_len))
    return limits
