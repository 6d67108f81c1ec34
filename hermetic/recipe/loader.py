"""Evaluate a recipe: run its Python under the purity rules and collect the stages it names."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.recipe import evaluation, modules
from hermetic.recipe.fixed import FixedOutput
from hermetic.recipe.memo import Memo
from hermetic.recipe.pins import is_locking
from hermetic.recipe.purity import guarded
from hermetic.recipe.source import Source
from hermetic.recipe.stage import Stage

__all__ = ["SUFFIXES", "Recipe", "load"]

#: Recipes that are no Python, by suffix: a module whose `names(running)` gives what a recipe's module would name. By
#: name and imported when one is read, because the stage library knows this room and not the other way round.
READERS: Final = {".yaml": "hermetic.llm.truss.recipe", ".yml": "hermetic.llm.truss.recipe"}
#: What the names of recipes end in.
SUFFIXES: Final = (".py", *READERS)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Recipe:
    """An evaluated recipe.

    `stages` are those it names, by name, in the order of the file; `names` has a name for every stage that any of
    them needs; `default` is the stage of that module-level name, if there is one. `fixed` are the fixed outputs that it
    names, which may be asked for like stages.
    """

    file: str
    stages: Mapping[str, Stage]
    names: Mapping[Stage, str]
    default: Stage | None
    parameters: Mapping[str, object]
    fixed: Mapping[str, FixedOutput] = field(default_factory=dict)

    def select(self, name: str | None) -> Stage | FixedOutput:
        """The stage or fixed output called `name`, or the default one. Raises (usage/unknown-stage)."""
        if name is None:
            return self._the_default()
        if name == "default" and self.default is not None:
            return self.default
        if name in self.fixed:
            return self.fixed[name]
        if name not in self.stages:
            raise self._unknown(f"{self.file} has no stage {name!r}", name)
        return self.stages[name]

    def _the_default(self) -> Stage:
        if self.default is not None:
            return self.default
        if len(self.stages) == 1:
            return next(iter(self.stages.values()))
        raise self._unknown(f"{self.file} names no default stage")

    def _unknown(self, message: str, name: str = "") -> HermeticError:
        close = difflib.get_close_matches(name, self.stages, n=1)
        known = ", ".join(self.stages) or "none"
        hint = f"did you mean {self.file}#{close[0]}?" if close else f"its stages: {known}"
        return HermeticError(Domain.USAGE, "unknown-stage", message, hint=hint)

    def checks_of(self, target: Stage | FixedOutput) -> list[Stage]:
        """The stages that must succeed before `target` counts as realised."""
        return [
            stage
            for stage in self.stages.values()
            if stage.check and any(item is target for item in stage.inputs_by_role().values())
        ]


def load(file: str, overrides: Mapping[str, str] | None = None, *, memo: Memo | None = None) -> Recipe:
    """Evaluate the recipe at `file` with the parameters in `overrides`.

    Raises `HermeticError` with domain recipe (or `HermeticErrors`, all of them at once) for whatever is wrong in the
    file, usage/no-recipe if it is not there and usage/unknown-parameter for an override it does not declare.
    """
    path = os.path.abspath(file)
    running = evaluation.Evaluation(path, dict(overrides or {}), memo or Memo(), os.getcwd())
    if running.memo.observe(path) is None or not os.path.isfile(path):
        raise HermeticError(Domain.USAGE, "no-recipe", f"there is no recipe {file}")
    modules.preload()
    module = types.ModuleType("__recipe__")
    before = os.getcwd()
    try:
        os.chdir(running.directory)
        with evaluation.active(running), guarded(running):
            _run(path, module, running)
    finally:
        os.chdir(before)
    if all(error.reason == "parameter-missing" for error in running.errors):
        _check_overrides(running)  # a misspelt --set is why a value is missing
    recipe = _collect(file, module, running) if not running.errors else None
    if recipe is None or running.errors:
        raise _all(running.errors)
    return recipe


def _run(path: str, module: types.ModuleType, running: evaluation.Evaluation) -> None:
    reader = READERS.get(os.path.splitext(path)[1])
    try:
        if reader is not None:
            with running.trusted():
                found = importlib.import_module(reader)
            vars(module).update(found.names(running))
        else:
            modules.execute(path, module, modules.Importer(running), running)
    except HermeticErrors as error:
        running.errors += error.errors
    except HermeticError as error:
        running.errors.append(error)
    except SyntaxError as error:
        place = f"{running.shown(error.filename or path)}:{error.lineno}"
        message = f"{place}: {error.msg}: {(error.text or '').strip()}"
        running.errors.append(HermeticError(Domain.RECIPE, "syntax", message))
    except Exception as error:  # noqa: BLE001  # whatever a recipe raises is the recipe's error, with its line
        running.errors.append(_raised(error, running))


def _raised(error: Exception, running: evaluation.Evaluation) -> HermeticError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in running.files]
    last = frames[-1] if frames else None
    place = f"{running.shown(last.filename)}:{last.lineno}: " if last else ""
    line = f" in `{last.line}`" if last and last.line else ""
    return HermeticError(Domain.RECIPE, "raised", f"{place}{type(error).__name__}: {error}{line}")


def _collect(file: str, module: types.ModuleType, running: evaluation.Evaluation) -> Recipe:
    found = {name: value for name, value in vars(module).items() if isinstance(value, Stage)}
    default = found.pop("default", None)
    names: dict[Stage, str] = {}
    stages: dict[str, Stage] = {}
    for variable, stage in found.items():
        names.setdefault(stage, stage.name or variable)
        if not variable.startswith("_"):
            stages[variable] = stage
    if default is not None:
        names.setdefault(default, default.name or "default")
    for stage in [*found.values(), *([default] if default is not None else [])]:
        _name_inputs(stage, names, running)
    _check_names(names, running)
    fixed = {name: value for name, value in vars(module).items() if isinstance(value, FixedOutput)}
    _check_fixed([*fixed.values(), *(item for stage in names for item in stage.inputs_by_role().values())], running)
    if not found and default is None and not fixed:
        running.errors.append(_no_stages(file))
    return Recipe(file, stages, names, default, running.parameters, fixed)


def _check_fixed(reached: list[Stage | Source], running: evaluation.Evaluation) -> None:
    """Complain of fixed outputs that cannot be had; of those alone that somebody may ask for."""
    if is_locking():
        return
    for item in dict.fromkeys(item for item in reached if isinstance(item, FixedOutput)):
        problem = item.problem(item.entry)
        if problem is not None:
            running.errors.append(problem)


def _no_stages(file: str) -> HermeticError:
    return HermeticError(
        Domain.RECIPE, "no-stages", f"{file} names no stage", hint="bind a stage to a module-level name: engine = ..."
    )


def _name_inputs(stage: Stage, names: dict[Stage, str], running: evaluation.Evaluation) -> None:
    """Give every stage that is reached, but bound to no name, its own `name`; complain where it has none."""
    seen: set[Stage] = set()
    pending = [stage]
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        for role, item in here.inputs_by_role().items():
            if isinstance(item, Source):
                continue
            if item not in names:
                names[item] = item.name
                if not item.name:
                    running.errors.append(_unnamed(names[here], role, item))
            pending.append(item)


def _unnamed(user: str, role: str, item: Stage) -> HermeticError:
    return HermeticError(
        Domain.RECIPE,
        "stage-unnamed",
        f"{item.where}: the stage that is input {role!r} of {user!r} has no name",
        hint="bind it to a module-level name, or give it name='...'",
    )


def _check_names(names: Mapping[Stage, str], running: evaluation.Evaluation) -> None:
    for stage, name in names.items():
        if name and not _NAME.fullmatch(name):
            message = f"{stage.where}: {name!r} cannot be a stage's name"
            hint = "use letters, digits and . _ + -, at most 100 of them"
            running.errors.append(HermeticError(Domain.RECIPE, "bad-name", message, hint=hint))


def _check_overrides(running: evaluation.Evaluation) -> None:
    for name in running.overrides:
        if name not in running.parameters:
            close = difflib.get_close_matches(name, running.parameters, n=1)
            declared = ", ".join(sorted(running.parameters)) or "none"
            hint = f"did you mean {close[0]}?" if close else f"it declares: {declared}"
            message = f"the recipe declares no parameter {name!r}"
            raise HermeticError(Domain.USAGE, "unknown-parameter", message, hint=hint)


def _all(errors: list[HermeticError]) -> HermeticError:
    return errors[0] if len(errors) == 1 else HermeticErrors(errors)
