"""``hermetic lint``: what is wrong with a recipe or a Truss config, before anything is built or fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from hermetic.cli import approved, console, options
from hermetic.errors import EXIT_CODES, Domain, HermeticError
from hermetic.llm.findings import Finding, Severity

if TYPE_CHECKING:
    from hermetic.recipe import Recipe


@click.command("lint")
@click.argument("reference", metavar="RECIPE|config.yaml|SCRIPT.sh")
@options.setting
@options.as_json
@click.option("--policy", type=click.Path(), help="What a deployment promises: docs/policies.md.")
@click.pass_context
def command(context: click.Context, reference: str, sets: tuple[str, ...], as_json: bool, policy: str | None) -> None:
    """Say what is wrong with a recipe or a Truss config.yaml. Builds and fetches nothing.

    Of a shell script it checks the command lines of TensorRT-LLM's tools against a release (`--set release=1.2.1`), and
    writes them right.

    The exit code is 3 if there is an error, and 0 if there are only warnings and notes.
    """
    found = _found(reference, options.overrides(sets), policy)
    for finding in found:
        if as_json:
            console.json_line(finding.document())
        else:
            _show(finding)
    counts = Counter(finding.severity for finding in found)
    if not as_json:
        console.note(_summary(counts))
    if counts[Severity.ERROR]:
        context.exit(EXIT_CODES[Domain.RECIPE])


def _found(reference: str, overrides: Mapping[str, str], policy: str | None) -> list[Finding]:
    if reference.endswith(".sh"):
        return _script(reference, overrides)
    from hermetic.llm.lint import RECIPES, looked_at

    def judge(recipe: Recipe) -> list[Finding]:
        return [*RECIPES.run(recipe), *approved.lint(recipe), *_promises(recipe, policy)]

    if reference.endswith((".yaml", ".yml")):
        from hermetic.llm.truss.stage_lint import lint_config

        return lint_config(reference, overrides, judge)
    from hermetic.realise.evaluated import split_reference

    return looked_at(split_reference(reference)[0], overrides, judge)


def _script(file: str, overrides: Mapping[str, str]) -> list[Finding]:
    from hermetic.llm.trtllm.scripts import RELEASE, lint_script

    if unknown := sorted(set(overrides) - {"release"}):
        message = f"a script has no parameter {unknown[0]!r}"
        raise HermeticError(Domain.USAGE, "unknown-parameter", message, hint="--set release=1.2.1")
    return lint_script(file, overrides.get("release", RELEASE))


def _promises(recipe: Recipe, policy: str | None) -> list[Finding]:
    if policy is None:
        return []
    from hermetic.llm.policy_reading import read_policy
    from hermetic.llm.triton_lint import policy_findings

    return list(policy_findings(recipe, read_policy(policy).policy))


def _show(finding: Finding) -> None:
    where = ": ".join(part for part in (finding.place, finding.where) if part)
    text = f"{where}: {finding.message}" if where else finding.message
    console.data(f"{finding.severity.value}[{finding.code}]: {text}")
    if finding.hint:
        console.data(f"    hint: {finding.hint}")


def _summary(counts: Counter[Severity]) -> str:
    parts = [f"{counts[kind]} {kind.value}{'' if counts[kind] == 1 else 's'}" for kind in Severity if counts[kind]]
    return ", ".join(parts) or "nothing to say"
