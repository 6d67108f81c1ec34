"""The organisation's approved images, where there is a file of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hermetic.cli import console, settings
from hermetic.errors import Domain, HermeticError, HermeticErrors

if TYPE_CHECKING:
    from hermetic.cli.common import Opened
    from hermetic.llm.approved_images import ApprovedImages
    from hermetic.llm.findings import Finding
    from hermetic.recipe import Recipe

__all__ = ["configured", "lint", "refuse"]


def configured() -> ApprovedImages | None:
    """The setting ``images``, read; None if nobody set it. A relative path is relative to the file that says so."""
    from hermetic.llm.approved_images import read

    setting = settings.find("images")
    if setting is None:
        return None
    base = os.path.dirname(setting.source) if os.path.isabs(setting.source) else os.getcwd()
    return read(os.path.join(base, os.path.expanduser(str(setting.value))))


def lint(recipe: Recipe) -> Iterator[Finding]:
    """Findings about the images of a recipe."""
    from hermetic.llm.approved_images import findings

    approved = configured()
    if approved is not None:
        yield from findings(approved, recipe.names.items())


def refuse(session: Opened, *, testing: bool) -> None:
    """Stop before anything is built in an image that is not approved; with `testing` those in test may be used.

    What is in the store already is not built, and not refused. Raises `HermeticError` (trust/image-…).
    """
    from hermetic.llm.approved_images import findings
    from hermetic.llm.findings import Severity
    from hermetic.realise.plan import make_plan

    approved = configured()
    if approved is None:
        return
    evaluated = session.evaluated
    plan = make_plan(evaluated.graph, [item.key for item in evaluated.wanted], session.store)
    errors = []
    for found in findings(approved, [(step.stage, step.name) for step in plan.to_build]):
        if found.severity is Severity.WARNING and testing:
            console.note(f"{found.where}: {found.message}")
        else:
            errors.append(HermeticError(Domain.TRUST, found.code, f"{found.where}: {found.message}", hint=found.hint))
    if errors:
        raise errors[0] if len(errors) == 1 else HermeticErrors(errors)
