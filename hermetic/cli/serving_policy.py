"""The policy of what is served: found, compared with the engine, and made the proxy's hooks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hermetic.cli.policies import policy_of
from hermetic.cli.serving import Prepared
from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.llm.findings import raise_errors
from hermetic.llm.policy import PolicyFile
from hermetic.llm.triton_lint import promises
from hermetic.serve.openai.hooks import Hooks, NoHooks
from hermetic.serve.policy.decisions import Identity
from hermetic.serve.policy.side import Engine
from hermetic.serve.triton_deployment import Deployment
from hermetic.store import Profile, Store

__all__ = ["governed", "hooks_of"]


def governed(found: Prepared, deployment: Deployment) -> Engine:
    """What a policy is told of an engine."""
    identity = Identity(deployment.engine_hash, deployment.quantisation, deployment.tokenizer_hash, deployment.limits)
    files = deployment.engine_files
    manifest = {
        "kind": deployment.kind,
        "files": len(files),
        "bytes": sum(int(of.get("size", 0)) for of in files.values()),
        "verified": "every file, when the server started",
    }
    provenance = _provenance(found.launcher.run.store, found.subject.engine)
    return Engine(identity, found.subject.engine, found.link, manifest, provenance)


def _provenance(store: Store, path: str) -> dict[str, Any]:
    """What the store recorded when it made the engine; nothing for one from elsewhere."""
    try:
        record = store.find(os.path.realpath(path))
    except HermeticError:
        return {}
    return {
        "key": record.key.hex,
        "tree": record.tree.hex,
        "stage": record.name,
        "built by": f"run {record.run}" + (f", attempt {record.build}" if record.build else ""),
        "platform": dict(record.platform) or "independent",
        "impure": "yes" if record.impure else "no",
    }


def hooks_of(
    found: Prepared, model: str, deployment: Deployment, given: str | None, candidate: Engine | None = None
) -> Hooks:
    """The hooks of the deployment's policy, if it has one. Raises `HermeticError` where policy and engine disagree."""
    limits = [deployment.limits, *([candidate.identity.limits] if candidate is not None else [])]

    def read() -> PolicyFile | None:
        file = policy_of(model, given)
        if file is not None:
            for one in limits:
                raise_errors(promises(one, file.policy))
        return file

    file = read()
    if file is None and candidate is not None:
        message = "a candidate needs a policy, which says when it takes over"
        raise HermeticError(Domain.USAGE, "no-policy", message, hint="--policy FILE, and docs/policies.md")
    if file is None:
        return NoHooks()
    from hermetic.serve.canary_hooks import CanaryHooks
    from hermetic.serve.policy.runtime import PolicyHooks

    def again() -> PolicyFile:
        if (found := read()) is None:
            message = f"the setting policies has none for {model} any more: start again to serve without"
            raise HermeticError(Domain.USAGE, "no-policy", message)
        return found

    engine = governed(found, deployment)
    if candidate is None:
        return PolicyHooks(file, model, engine, read=again)
    return CanaryHooks(file, model, engine, candidate, _publisher(found, candidate), read=again)


def _publisher(found: Prepared, candidate: Engine) -> Callable[[str], None]:
    """What switches the profile that showed the old engine to the candidate."""
    store = found.launcher.run.store
    if not found.link:
        message = f"{found.subject.engine} is shown by no link that a candidate could take over"
        raise HermeticError(Domain.USAGE, "no-profile", message, hint="hermetic link NAME ENGINE, and serve NAME")

    def publish(cause: str) -> None:
        folder, name = os.path.split(found.link)
        target = _target(store, candidate.path)
        Profile(store, name).switch(target, folder, cause=f"canary: {cause}")

    return publish


def _target(store: Store, path: str) -> Key | str:
    real = os.path.realpath(path)
    try:
        record = store.find(real)
    except HermeticError:
        return real
    return record.key if os.path.realpath(record.path(store)) == real else real
