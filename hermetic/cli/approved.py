"""The organisation's approved images, where there is a file of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hermetic.cli import console, settings

if TYPE_CHECKING:
    from hermetic.cli.common import Opened
    from hermetic.llm.approved_images import ApprovedImages
    from hermetic.llm.findings import Finding
    from hermetic.recipe import Image, Recipe, Stage

__all__ = ["configured", "lint", "refuse", "refuse_image", "refuse_stages"]


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


def refuse(session: Opened, *, testing: bool, also: Iterable[Stage] = ()) -> None:
    """Stop before anything is built in an image that is not approved; with `testing` those in test may be used.

    What is in the store already is not built, and not refused, except for the stages `also`, which will run all the
    same. Raises `HermeticError` (trust/image-…).
    """
    if configured() is None:
        return
    names = session.evaluated.recipe.names
    refuse_stages(session.building() | {stage: names[stage] for stage in also}, testing=testing)


def refuse_stages(stages: Mapping[Stage, str], *, testing: bool) -> None:
    """As `refuse`, of stages with their names, whether they are in a store or not."""
    from hermetic.llm.approved_images import insist

    approved = configured()
    for found in insist(approved, stages.items(), testing=testing) if approved is not None else ():
        console.note(f"{found.where}: {found.message}")


def refuse_image(image: Image, where: str) -> None:
    """As `refuse`, of an image in which `where` will be started."""
    from hermetic.llm.approved_images import insist_on

    approved = configured()
    if approved is not None:
        insist_on(approved, image, where)
