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
from hermetic.llm.trtllm.coupling import NEEDS_PAGED_CONTEXT
from hermetic.llm.whisper import Whisper
from hermetic.recipe import Recipe, Source

__all__ = ["findings", "policy_findings", "promises"]

_LIMITS: Final = ("max_seq_len", "max_batch_size")
_QUEUE: Final = {"max_queue_delay_microseconds": "queue_delay_us", "max_queue_size": "queue_size"}
_TEMPLATE: Final = "tensorrtllm_backend, all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt"


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Of every repository of `recipe`, at the line that makes it."""
    for stage, name in recipe.names.items():
        if isinstance(stage, Repository):
            place = stage.where
            for found in (
                *_queue(stage),
                *_limits(stage),
                *_reuse(stage),
                *_plan(stage),
                *_manifest(stage),
                *_other_kinds(stage),
            ):
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
    halves = (stage.engine.encoder, stage.engine.decoder) if isinstance(stage.engine, Whisper) else (stage.engine,)
    for name, engine in ((name, half) for name in _LIMITS for half in halves if isinstance(half, Engine)):
        wanted, most = getattr(stage, name), engine.options.get(name)
        if isinstance(most, int) and wanted > most:
            message = f"{name} is {wanted}, and the engine is built with {most}"
            yield Finding("repository-over-engine", Severity.ERROR, name, message, f"{name}={most}, or another engine")


def _reuse(stage: Repository) -> Iterator[Finding]:
    """What the server wants of the cache, and the engine was not built for."""
    if not isinstance(stage.engine, Engine) or stage.engine.options.get("use_paged_context_fmha") != "disable":
        return
    for name in ("kv_cache_reuse", "chunked_context"):
        if getattr(stage, name):
            message = f"{name} needs an engine that was built with use_paged_context_fmha"
            yield Finding("reuse-and-engine", Severity.ERROR, name, message, f"{name}=False", NEEDS_PAGED_CONTEXT)


def _plan(stage: Repository) -> Iterator[Finding]:
    if isinstance(stage.engine, Source) and stage.engine.name.endswith(".plan"):
        message = f"{stage.engine.name} is one file, and an engine of TensorRT-LLM is a folder"
        hint = "the folder with config.json and rank0.engine, one rank<N>.engine for each rank"
        yield Finding("plan-file", Severity.ERROR, "engine", message, hint)


def _manifest(stage: Repository) -> Iterator[Finding]:
    if stage.manifest is None:
        message = "no manifest is given, so its engine is promised as it is found when the repository is made"
        yield Finding("repository-without-manifest", Severity.NOTE, "manifest", message, "manifest=Manifest(...)")


def _other_kinds(stage: Repository) -> Iterator[Finding]:
    if isinstance(stage.engine, Whisper):
        for name in ("bls", "max_seq_len"):
            if getattr(stage, name):
                message = f"an engine that hears is not served with {name}"
                yield Finding("repository-setting", Severity.ERROR, name, message, "leave it out")
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
            for found in (*promises(_known_limits(stage), policy), *_delays(stage.queue_delay_us, policy)):
                yield replace(found, where=f"{name}: {found.where}")


def _delays(waits: int, policy: Policy) -> Iterator[Finding]:
    """A request may wait for others of its batch longer than the policy calls too long; its own numbers may differ."""
    threshold = policy.thresholds.max_queue_delay_us
    if threshold is not None and waits > threshold.limit:
        message = f"the server holds requests back for up to {waits} µs, and {threshold.limit} µs raise an alert"
        hint = f"queue_delay_us={threshold.limit} at most, or a higher limit"
        yield Finding("delay-over-policy", Severity.ERROR, "thresholds.max_queue_delay_us.limit", message, hint)
    for number, window in enumerate(policy.readiness.windows):
        if window.metric != "llm.queue_delay_us" or window.at_most is None:
            continue
        where = f"readiness.windows[{number}].at_most"
        if waits > window.at_most:
            message = f"the server holds requests back for up to {waits} µs, and at {window.at_most} µs it is not ready"
            yield Finding("delay-over-policy", Severity.ERROR, where, message, "lower queue_delay_us")
        if threshold is not None and threshold.limit > window.at_most:
            message = (
                f"one request may wait {threshold.limit} µs without an alert, and {window.at_most} µs are not ready"
            )
            yield Finding("delays-differ", Severity.WARNING, where, message, "one number for both")


def _known_limits(stage: Repository) -> dict[str, int]:
    """The repository's own and the engine's, the smaller of both; what only the built engine knows is missing."""
    options = stage.engine.options if isinstance(stage.engine, Engine) else {}
    limits = {name: most for name in ("max_input_len", "max_seq_len") if isinstance(most := options.get(name), int)}
    if stage.max_seq_len:
        limits["max_seq_len"] = min(stage.max_seq_len, limits.get("max_seq_len", stage.max_seq_len))
    return limits
