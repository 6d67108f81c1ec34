"""Checks of evaluated recipes: what can be said of their stages before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.llm import drivers, engine_lint, memory, triton_lint
from hermetic.llm.findings import Checks, Finding, Severity
from hermetic.recipe import FixedOutput, Host, Recipe, Stage, load
from hermetic.recipe.pins import locking

__all__ = ["RECIPES", "about", "looked_at"]

RECIPES: Final[Checks[Recipe]] = Checks()
#: What ``hermetic lock`` puts right.
_UNLOCKED: Final = frozenset({"not-locked", "unresolved"})


def looked_at(file: str, overrides: Mapping[str, str], judge: Callable[[Recipe], Iterable[Finding]]) -> list[Finding]:
    """What stops the recipe in `file`, as findings; else what `judge` says of it.

    What is not pinned yet stops a build, says nothing against the rest of the recipe, and is a warning. Raises
    `HermeticError` for what is no mistake of the recipe (usage/no-recipe, usage/unknown-parameter).
    """
    recipe, found = _loaded(file, overrides)
    if recipe is None and not [one for one in found if one.severity is Severity.ERROR]:
        with locking():
            recipe, more = _loaded(file, overrides)
        found += more
        said = {one.message for one in found}
        found += [one for one in _unpinned(recipe) if one.message not in said] if recipe is not None else []
    return [*(judge(recipe) if recipe is not None else ()), *found]


def _unpinned(recipe: Recipe) -> Iterator[Finding]:
    """Of what is fetched: an evaluation stops at images before it comes to these."""
    inputs = (item for stage in recipe.names for item in stage.inputs_by_role().values())
    for item in dict.fromkeys([*recipe.fixed.values(), *inputs]):
        problem = item.problem(item.entry) if isinstance(item, FixedOutput) else None
        if problem is not None:
            yield _stopping(problem)


def _loaded(file: str, overrides: Mapping[str, str]) -> tuple[Recipe | None, list[Finding]]:
    try:
        return load(file, overrides), []
    except HermeticError as error:
        if error.domain is not Domain.RECIPE:
            raise
        return None, [_stopping(one) for one in (error.errors if isinstance(error, HermeticErrors) else [error])]


def _stopping(error: HermeticError) -> Finding:
    """What stops an evaluation. Its message begins with the file and line already."""
    severity = Severity.WARNING if error.reason in _UNLOCKED else Severity.ERROR
    return Finding(error.reason, severity, "", error.message, error.hint or "")


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
