"""``hermetic lint``: what is wrong with a recipe or a Truss config, before anything is built or fetched."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from hermetic.cli import approved, console, options
from hermetic.errors import EXIT_CODES, Domain, HermeticError, HermeticErrors
from hermetic.llm.findings import Finding, Severity

if TYPE_CHECKING:
    from hermetic.recipe import Recipe

#: What ``hermetic lock`` puts right.
_UNLOCKED: Final = frozenset({"not-locked", "unresolved"})


@click.command("lint")
@click.argument("reference", metavar="RECIPE|config.yaml")
@options.setting
@options.as_json
@click.option("--policy", type=click.Path(), help="What a deployment promises: docs/policies.md.")
@click.pass_context
def command(context: click.Context, reference: str, sets: tuple[str, ...], as_json: bool, policy: str | None) -> None:
    """Say what is wrong with a recipe or a Truss config.yaml. Builds and fetches nothing.

    The exit code is 3 if there is an error, and 0 if there are only warnings and notes.
    """
    found = _truss(reference, sets) if reference.endswith((".yaml", ".yml")) else _recipe(reference, sets, policy)
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


def _truss(file: str, sets: tuple[str, ...]) -> list[Finding]:
    from hermetic.llm.findings import errors_of
    from hermetic.llm.truss.lint import lint

    found = lint(file)
    return found if errors_of(found) else [*found, *approved.lint_config(file, options.overrides(sets))]


def _recipe(reference: str, sets: tuple[str, ...], policy: str | None) -> list[Finding]:
    from hermetic.llm.lint import RECIPES
    from hermetic.realise.evaluated import split_reference
    from hermetic.recipe.loader import load
    from hermetic.recipe.pins import locking

    file, _ = split_reference(reference)
    overrides = options.overrides(sets)
    unlocked: list[Finding] = []
    try:
        recipe = load(file, overrides)
    except HermeticError as error:
        if error.domain is not Domain.RECIPE:
            raise
        errors = error.errors if isinstance(error, HermeticErrors) else [error]
        if not _UNLOCKED.issuperset(one.reason for one in errors):
            return [_finding(one) for one in errors]
        # What is not pinned yet stops a build, and says nothing against the rest of the recipe.
        unlocked = [replace(_finding(one), severity=Severity.WARNING) for one in errors]
        with locking():
            recipe = load(file, overrides)
    return [*RECIPES.run(recipe), *approved.lint(recipe), *_promises(recipe, policy), *unlocked]


def _promises(recipe: Recipe, policy: str | None) -> list[Finding]:
    if policy is None:
        return []
    from hermetic.llm.policy_reading import read_policy
    from hermetic.llm.triton_lint import policy_findings

    return list(policy_findings(recipe, read_policy(policy).policy))


def _finding(error: HermeticError) -> Finding:
    """What stops an evaluation. Its message begins with the file and line already."""
    return Finding(error.reason, Severity.ERROR, "", error.message, error.hint or "")


def _show(finding: Finding) -> None:
    where = " ".join(part for part in (finding.place and f"{finding.place}:", finding.where) if part)
    text = f"{where}: {finding.message}" if where else finding.message
    console.data(f"{finding.severity.value}[{finding.code}]: {text}")
    if finding.hint:
        console.data(f"    hint: {finding.hint}")


def _summary(counts: Counter[Severity]) -> str:
    parts = [f"{counts[kind]} {kind.value}{'' if counts[kind] == 1 else 's'}" for kind in Severity if counts[kind]]
    return ", ".join(parts) or "nothing to say"
