"""Checks of evaluated recipes: what can be said of their stages before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hermetic.llm import drivers, engine_lint, memory, triton_lint
from hermetic.llm.findings import Checks, Finding, Severity
from hermetic.recipe import Host, Recipe, Stage

__all__ = ["RECIPES", "about"]

RECIPES: Final[Checks[Recipe]] = Checks()


def about(
    stage: Stage, name: str, code: str, severity: Severity, message: str, hint: str = "", source: str = ""
) -> Finding:
    """A finding about a stage, at the line that makes it."""
    place = stage.where
    file, line = (place.file, place.line) if place is not None else ("", 0)
    return Finding(code, severity, name, message, hint, source, file, line)


@RECIPES
def host_environments(recipe: Recipe) -> Iterator[Finding]:
    """A key with a `Host` in it means something on machines with the same files only."""
    for stage, name in recipe.names.items():
        if isinstance(stage.environment, Host):
            message = "it runs with files of this machine, so its key means little elsewhere"
            yield about(stage, name, "host-environment", Severity.NOTE, message, "an Image or a PythonEnv")


@RECIPES
def disk(recipe: Recipe) -> Iterator[Finding]:
    """What stages leave, against what they may hold."""
    for stage, name in recipe.names.items():
        for found in memory.disk_findings(stage):
            place = f"{name}: {found.where}"
            yield about(stage, place, found.code, found.severity, found.message, found.hint)


@RECIPES
def driver(recipe: Recipe) -> Iterator[Finding]:
    """The driver that the recipe says it is for, against the images of its stages."""
    yield from drivers.findings(recipe.names.items())


RECIPES(engine_lint.findings)
RECIPES(engine_lint.untested)
RECIPES(triton_lint.findings)
