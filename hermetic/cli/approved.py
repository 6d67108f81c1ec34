"""The organisation's approved images, where there is a file of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hermetic.cli import console, settings
from hermetic.errors import Domain, HermeticError, HermeticErrors

if TYPE_CHECKING:
    from hermetic.cli.common import Opened
    from hermetic.llm.approved_images import ApprovedImages
    from hermetic.llm.findings import Finding
    from hermetic.recipe import Recipe, Stage

__all__ = ["configured", "lint", "lint_config", "refuse", "refuse_stages"]


def configured() -> ApprovedImages | None:
    """The setting ``images``, read; None if nobody set it. A relative path is relative to the file that says so."""
    setting = settings.find("images")
    if setting is None:
        return None
    from hermetic.llm.approved_images import read  # which brings recipes along

    base = os.path.dirname(setting.source) if os.path.isabs(setting.source) else os.getcwd()
    return read(os.path.join(base, os.path.expanduser(str(setting.value))))


def lint(recipe: Recipe) -> Iterator[Finding]:
    """Findings about the images of a recipe."""
    approved = configured()
    if approved is not None:
        from hermetic.llm.approved_images import findings

        yield from findings(approved, recipe.names.items())


def lint_config(file: str, overrides: Mapping[str, str]) -> Iterator[Finding]:
    """Findings about the images that a Truss config is built in; a warning where its stages cannot be made out."""
    if configured() is None:
        return
    from hermetic.llm.findings import Finding, Severity
    from hermetic.recipe.loader import load
    from hermetic.recipe.pins import locking

    try:
        with locking():
            recipe = load(file, overrides)
    except HermeticError as error:
        if error.domain is not Domain.RECIPE:
            raise
        if error.reason != "nothing-to-build":
            message = f"whether its image is approved is not known: {error.message}"
            yield Finding("image-not-judged", Severity.WARNING, "environment", message, error.hint or "", file=file)
        return
    yield from lint(recipe)


def refuse(session: Opened, *, testing: bool, also: Iterable[Stage] = ()) -> None:
    """Stop before anything is built in an image that is not approved; with `testing` those in test may be used.

    What is in the store already is not built, and not refused, except for the stages `also`, which will run all the
    same. Raises `HermeticError` (trust/image-…).
    """
    from hermetic.realise.plan import make_plan

    if configured() is None:
        return
    evaluated = session.evaluated
    plan = make_plan(evaluated.graph, [item.key for item in evaluated.wanted], session.store)
    building = {step.stage: step.name for step in plan.to_build}
    refuse_stages(building | {stage: evaluated.recipe.names[stage] for stage in also}, testing=testing)


def refuse_stages(stages: Mapping[Stage, str], *, testing: bool) -> None:
    """As `refuse`, of stages with their names, whether they are in a store or not."""
    from hermetic.llm.approved_images import findings
    from hermetic.llm.findings import Severity

    approved = configured()
    if approved is None:
        return
    errors = []
    for found in findings(approved, stages.items()):
        if found.severity is Severity.WARNING and testing:
            console.note(f"{found.where}: {found.message}")
        else:
            errors.append(HermeticError(Domain.TRUST, found.code, f"{found.where}: {found.message}", hint=found.hint))
    if errors:
        raise errors[0] if len(errors) == 1 else HermeticErrors(errors)
