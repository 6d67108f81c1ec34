"""After a roll-back: the restored engine is verified, started and warmed up, and the log says why it came back."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from hermetic.cli import console
from hermetic.cli.placing import place_of, talk_of
from hermetic.cli.serving import Prepared, Wish, prepared
from hermetic.cli.serving_image import insist
from hermetic.cli.serving_policy import governed
from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import PolicyFile
from hermetic.serve.launch import serving
from hermetic.serve.launch_command import Settings
from hermetic.serve.launch_ports import free_ports
from hermetic.serve.openai.app import Proxy
from hermetic.serve.openai.engine import Engine
from hermetic.serve.policy.events import ROLLED_BACK, WARM_UP_FAILED, WARMED_UP, EventLog, log_of
from hermetic.serve.policy.manifests import PromptRuntimeManager, for_engine, read_manifests
from hermetic.serve.policy.side import Engine as Governed
from hermetic.serve.policy.warming import WarmedUp, warm_up
from hermetic.serve.triton_deployment import Deployment, read_deployment
from hermetic.store import Generation

__all__ = ["warm_up_again"]


def warm_up_again(
    file: PolicyFile, name: str, store: str | None, generation: Generation, left: str, given: dict[str, Any]
) -> None:
    """Log ``llm_warmup_completed`` and ``llm_rollback_completed``, with the cause of `generation`; `left` is what the
    link showed before, `given` what was said of the server that the engine is tried in.

    Raises `HermeticError` (environment/warm-up-failed) after ``llm_warmup_failed``: the link stays where it is then,
    and the roll-back is not called completed.
    """
    log = log_of(file)
    with prepared(Wish(name, os.path.dirname(generation.link), store=store, runtime=given["runtime"])) as found:
        insist(found, place_of(given))
        deployment = read_deployment(found.subject.repository)
        engine = governed(found, deployment)
        about = _about(name, engine)
        try:
            done = asyncio.run(_asked(found, deployment, file, name, given))
        except HermeticError as error:
            done = WarmedUp(error.message, (), 0)
        _log_warm_up(log, done, about)
        manifest = _manifest(file, engine)
    log.write(ROLLED_BACK, **about, **manifest, cause=generation.cause, generation=generation.number, given_up=left)


def _about(name: str, engine: Governed) -> dict[str, Any]:
    identity = engine.identity
    return {
        "model": name,
        "engine_hash": identity.engine_hash,
        "tokenizer_hash": identity.tokenizer_hash,
        "quantisation": identity.quantisation,
    }


def _log_warm_up(log: EventLog, done: WarmedUp, about: dict[str, Any]) -> None:
    taken = {"latency_ms": list(done.latency_ms), "tokens_out": done.tokens_out}
    if done.problem:
        log.write(WARM_UP_FAILED, **about, **taken, cause=done.problem)
        message = f"the restored engine does not pass its warm-up: {done.problem}"
        hint = "hermetic profile rollback --to another generation"
        raise HermeticError(Domain.ENVIRONMENT, "warm-up-failed", message, hint=hint)
    log.write(WARMED_UP, **about, **taken)


def _manifest(file: PolicyFile, engine: Governed) -> dict[str, Any]:
    """Which runtime manifest counts again, and whether it agrees."""
    if file.policy.runtime_manifests is None:
        return {}
    found = for_engine(read_manifests(file.path(file.policy.runtime_manifests)), engine.identity.engine_hash)
    if found is None:
        return {"runtime_manifest": None}
    differences = PromptRuntimeManager(found, file.policy, engine.identity).mismatches()
    for one in differences:
        console.warning(str(one))
    return {"runtime_manifest": found.metadata.version, "aligned": not differences}


async def _asked(
    found: Prepared, deployment: Deployment, file: PolicyFile, model: str, given: dict[str, Any]
) -> WarmedUp:
    """With a Triton of its own, on ports that nobody has; what runs already is not disturbed."""
    settings = Settings(
        ports=free_ports(Settings.host), drain_s=0, place=place_of(given), start_s=given["start_timeout"]
    )
    async with serving(found.subject, found.launcher, settings, talk_of(given, model, "rollback")) as server:
        tokenizer = os.path.join(found.subject.tokenizer, deployment.tokenizer_folder).rstrip("/")
        engine = Engine.at(model, tokenizer, server.grpc, deployment)
        try:
            return await warm_up(file.policy.readiness.warm_up, Proxy({"": engine}).chat, model)
        finally:
            await engine.upstream.close()
