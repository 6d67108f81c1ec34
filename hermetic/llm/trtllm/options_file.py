"""Options of an engine from a YAML file beside the recipe."""

from __future__ import annotations

import os
from typing import Any

from hermetic.llm.trtllm.options import Value
from hermetic.recipe import evaluation

__all__ = ["options_file"]


def options_file(path: str | os.PathLike[str], *, section: str = "") -> dict[str, Value]:
    """The options in the YAML file `path`, relative to the recipe; with `section`, those below that key.

    Values are texts, whole numbers, true or false, or lists of texts. What the options mean is checked by the stage
    that they are given to; a change in the file rebuilds what a change in the recipe would.

    Reports `HermeticError` (recipe/options-file).
    """
    import yaml  # noqa: PLC0415  # few recipes have such a file

    place = evaluation.resolve(path)
    try:
        with open(place, encoding="utf-8") as stream:
            found: Any = yaml.safe_load(stream)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return _fail(path, str(error))
    for part in section.split(".") if section else ():
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return _fail(path, f"there is no mapping {section!r}" if section else "it is no mapping")
    wrong = [name for name, value in found.items() if not isinstance(name, str) or not _is_value(value)]
    if wrong:
        return _fail(
            path, f"{wrong[0]} is {found[wrong[0]]!r}, not a text, a whole number, true, false or a list of texts"
        )
    return found


def _is_value(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _fail(path: str | os.PathLike[str], why: str) -> dict[str, Value]:
    evaluation.fail("options-file", f"{os.fspath(path)}: {why}")
    return {}
