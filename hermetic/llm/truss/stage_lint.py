"""What is wrong with the stages that a config comes to: the checks of recipes, told with the config's fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from hermetic.llm.findings import Finding, errors_of
from hermetic.llm.lint import looked_at
from hermetic.llm.truss.hardware import MEMORY, PRODUCTS, SM
from hermetic.llm.truss.lint import examined, in_order
from hermetic.llm.truss.load import Truss, load
from hermetic.llm.truss.section import EngineBuild, Plugins, RuntimeV2, SectionV2
from hermetic.recipe import Recipe

__all__ = ["lint_config"]

_BUILD: Final = "trt_llm.build"
#: What the config itself was told already, with its line.
_SAID: Final = frozenset({"nothing-to-build", "not-yet-built", "gpu-unknown"})
#: Field by what a stage calls it, and by the code of what no stage could be made with.
_FIELDS: Final = {
    "gpu": "resources.accelerator",
    "release": "trt_llm.version_overrides.engine_builder_version",
    "checkpoint": f"{_BUILD}.checkpoint_repository",
    "source-missing": f"{_BUILD}.checkpoint_repository.repo",
    "does-not-fit": "resources.accelerator",
    "format-for-gpu": f"{_BUILD}.quantization_type",
    "cache-for-gpu": f"{_BUILD}.quantization_type",
    "format-and-cache": f"{_BUILD}.quantization_type",
    "coupled-options": _BUILD,
}


def lint_config(file: str, overrides: Mapping[str, str], judge: Callable[[Recipe], Iterable[Finding]]) -> list[Finding]:
    """All findings about the config in `file`, and what `judge` says of its stages unless the config has an error.

    Where nobody says what the driver calls the accelerator its stages are judged with the memory of its data sheet.
    Raises `HermeticError` (usage/…): no-recipe, unknown-parameter.
    """
    truss = load(file)
    found = examined(truss)
    if errors_of(found):
        return found
    of_stages = looked_at(file, {**_assumed(truss), **overrides}, judge)
    if "gpu" in overrides:
        found = [one for one in found if one.code != "gpu-unknown"]
    said = {one.code for one in found} & _SAID
    more = (_of_field(truss, one) for one in of_stages if one.code not in said)
    once = {(one.code, one.where, one.where or one.message): one for one in more}  # one field, several stages
    return in_order([*found, *once.values()])


def _assumed(truss: Truss) -> dict[str, str]:
    name = truss.config.resources.accelerator.accelerator
    if truss.section is None or name is None or name.value in PRODUCTS or name not in MEMORY:
        return {}
    return {"gpu": f"{name.value},{MEMORY[name]},{SM[name] // 10}.{SM[name] % 10}"}


def _of_field(truss: Truss, found: Finding) -> Finding:
    """The same at the line of the field that somebody would change."""
    stage, _, part = found.where.rpartition(": ")
    field = _FIELDS.get(part) or _FIELDS.get(found.code) or _option(truss, part, found.code)
    message = found.message  # which begins with the file as a recipe is shown, by its path from here
    for file in (truss.file, os.path.relpath(truss.path)):
        message = message.removeprefix(f"{file}: ")
    if not field:
        return replace(found, message=message, file=truss.file)
    placed = truss.finding(found.code, found.severity, field, message, found.hint, found.source)
    return replace(placed, message=f"{stage}: {message}" if stage else message)


def _option(truss: Truss, part: str, code: str) -> str:
    """An option of the engine, which is called as in the config if that has it; or where its options are."""
    name = part.removeprefix("options").removeprefix(".")
    if not part.startswith("options") and code not in ("stage-invalid", "float"):
        return ""
    if isinstance(truss.section, SectionV2):
        return f"trt_llm.runtime.{name}" if name in RuntimeV2.model_fields else "trt_llm.runtime"
    if name in Plugins.model_fields:
        return f"{_BUILD}.plugin_configuration.{name}"
    return f"{_BUILD}.{name}" if name in EngineBuild.model_fields else _BUILD
