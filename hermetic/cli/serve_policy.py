"""``hermetic serve policy``: look at a policy file before anything is served by it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hermetic.cli import console, options
from hermetic.errors import EXIT_CODES, Domain, HermeticError
from hermetic.llm.policy import Policy, PolicyFile
from hermetic.llm.policy_reading import read_policy
from hermetic.serve.policy.schemas import SchemaRegistry


@click.group("policy")
def command() -> None:
    """Policies of deployments: docs/policies.md."""


@command.command("check")
@click.argument("file", type=click.Path())
@click.option(
    "--repository", type=click.Path(exists=True, file_okay=False), help="Compare it with this deployment too."
)
@options.as_json
def check(file: str, repository: str | None, as_json: bool) -> None:
    """Read a policy file with all that it names; every mistake at once, and exit code 3."""
    found = read_policy(file)
    _whole(found)
    if repository is not None:
        _compare(found, repository)
    if as_json:
        console.json_line({"file": file, "sha256": found.digest, "policy": found.policy.model_dump(mode="json")})
    else:
        for line in _lines(found.policy):
            console.data(line)


def _whole(found: PolicyFile) -> None:
    """The folders that it names must be there, and what is in them sound."""
    from hermetic.serve.policy.manifests import read_manifests

    if found.policy.schemas is not None:
        SchemaRegistry.read(found.path(found.policy.schemas.folder))
    if found.policy.runtime_manifests is not None:
        read_manifests(found.path(found.policy.runtime_manifests))


def _compare(found: PolicyFile, repository: str) -> None:
    from hermetic.llm.findings import raise_errors
    from hermetic.llm.triton_lint import promises
    from hermetic.serve.triton_deployment import read_deployment

    raise_errors(promises(read_deployment(repository).limits, found.policy))


def _lines(policy: Policy) -> Iterator[str]:
    yield f"requires {', '.join(policy.required_headers) or 'no header'}"
    for name, threshold in policy.thresholds.given().items():
        yield " ".join(filter(None, (f"{name} over {threshold.limit}:", threshold.action, threshold.recipient)))
    for name, operation in policy.operations.items():
        defaults = operation.model_dump(mode="json", exclude_defaults=True)
        yield f"operation {name}: {', '.join(f'{key} {value}' for key, value in defaults.items()) or 'no defaults'}"
    for window in policy.windows():
        bound = f"at most {window.at_most}" if window.at_most is not None else f"at least {window.at_least}"
        yield f"ready while {window.statistic} of {window.metric} over {window.seconds} s is {bound}"


@command.command("sign-off")
@click.argument("file", type=click.Path())
@click.option("--role", required=True, help="For whom: one of the policy's readiness.sign_off.")
@click.option("--by", required=True, help="Who signs.")
@click.option("--repository", type=click.Path(exists=True, file_okay=False), help="The deployment's model repository.")
@click.option("--seal", help="What the page /dashboard.json says, instead of --repository.")
@click.option("--note", default="", help="What was looked at.")
def sign_off(file: str, role: str, by: str, repository: str | None, seal: str | None, note: str) -> None:
    """Agree to an engine, its tokenizer and this policy; a change of any of them asks for it anew."""
    from hermetic.serve.readiness import SignOffs

    found = read_policy(file)
    if role not in found.policy.readiness.sign_off:
        known = ", ".join(found.policy.readiness.sign_off) or "none"
        message = f"the policy asks for no sign-off by {role!r}; by these: {known}"
        raise HermeticError(Domain.USAGE, "unknown-role", message)
    sealed = _seal(found, repository, seal)
    signed = SignOffs(found.path(f"{found.policy.state}/sign-offs")).sign(role, by, sealed, note)
    console.json_line(signed)


def _seal(found: PolicyFile, repository: str | None, seal: str | None) -> str:
    from hermetic.serve.readiness import seal_of
    from hermetic.serve.triton_deployment import read_deployment

    if (repository is None) == (seal is None):
        raise HermeticError(Domain.USAGE, "what-is-signed", "give --repository or --seal")
    if repository is None:
        return str(seal)
    deployment = read_deployment(repository)
    return seal_of(deployment.engine_hash, deployment.tokenizer_hash, found.digest)


@command.command("summary")
@click.argument("file", type=click.Path())
@click.option("--repository", type=click.Path(exists=True, file_okay=False), required=True, help="The deployment's.")
@click.pass_context
def summary(context: click.Context, file: str, repository: str) -> None:
    """Print what reviewers sign off on: the runtime manifest's templates, and whether it agrees with what is served.

    The exit code is 3 if hashes or thresholds differ, or if no manifest is for this engine.
    """
    from hermetic.serve.policy.decisions import Identity
    from hermetic.serve.policy.manifests import PromptRuntimeManager, for_engine, read_manifests
    from hermetic.serve.triton_deployment import read_deployment

    found, served = read_policy(file), read_deployment(repository)
    identity = Identity(served.engine_hash, served.quantisation, served.tokenizer_hash, served.limits)
    folder = found.policy.runtime_manifests
    manifest = for_engine(read_manifests(found.path(folder)), served.engine_hash) if folder is not None else None
    if manifest is None:
        raise HermeticError(Domain.RECIPE, "no-runtime-manifest", f"{file} has no runtime manifest")
    said = PromptRuntimeManager(manifest, found.policy, identity).summary()
    console.json_line(said)
    if not said["aligned"]:
        context.exit(EXIT_CODES[Domain.RECIPE])


@command.command("events")
@click.argument("file", type=click.Path())
@click.option("-n", "--newest", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
def events(file: str, newest: int) -> None:
    """Print what the deployment's log has, the newest first, one JSON document a line."""
    from hermetic.serve.policy.events import log_of

    for document in log_of(read_policy(file)).recent(most=newest):
        console.json_line(document)
