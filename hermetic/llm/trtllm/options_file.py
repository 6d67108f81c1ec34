"""Options of an engine from a YAML file beside the recipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hermetic.llm.findings import Finding, errors_of
from hermetic.llm.trtllm.commandline import check_values
from hermetic.llm.trtllm.options import Table, Value, table
from hermetic.recipe import evaluation

if TYPE_CHECKING:
    from hermetic.llm.truss.document import Document

__all__ = ["options_file"]


def options_file(
    path: str | os.PathLike[str], *, section: str = "", release: str = "", tool: str = "trtllm-build"
) -> dict[str, Value]:
    """The options in the YAML file `path`, relative to the recipe; with `section`, those below that key.

    Values are texts, whole numbers, true or false, or lists of texts. With `release` they are held against the table of
    `tool` here, where their lines are known; without, by the stage that they are given to. A change in the file
    rebuilds what a change in the recipe would.

    Reports `HermeticError` (recipe/options-file) for every mistake, with its line in the file and its field. What is
    wrong is left out of the result. Raises as `hermetic.llm.trtllm.table` does.
    """
    document = _read(os.fspath(path))
    place = tuple(section.split(".")) if section else ()
    found = {} if document.findings else _options(document, place)
    if release:
        _check(document, place, found, table(tool, release))
    for finding in document.findings:
        _fail(finding)
    return found


def _read(file: str) -> Document:
    from hermetic.llm.truss.document import Document, read  # noqa: PLC0415  # few recipes have such a file

    try:
        with open(evaluation.resolve(file), "rb") as stream:
            return read(file, stream.read())
    except OSError as error:
        unreadable = Document(file)
        unreadable.report("unreadable", (), error.strerror or str(error))
        return unreadable


def _options(document: Document, place: tuple[str, ...]) -> dict[str, Value]:
    data: Any = document.data
    for part in place:
        data = data.get(part) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        document.report(
            "no-mapping", place, f"there is no mapping {'.'.join(place)!r}" if place else "it is no mapping"
        )
        return {}
    wrong = [name for name, value in data.items() if not isinstance(name, str) or not _is_value(value)]
    for name in wrong:
        message = f"{data[name]!r} is not a text, a whole number, true, false or a list of texts"
        hint = f"write it as a text: '{data[name]}'" if isinstance(data[name], float) else ""
        document.report("wrong-value", (*place, str(name)), message, hint=hint)
    return {name: value for name, value in data.items() if name not in wrong}


def _check(document: Document, place: tuple[str, ...], found: dict[str, Value], known: Table) -> None:
    """Takes what the release does not have, or not so, out of `found`."""
    for name in list(found):
        for wrong in errors_of(check_values({name: found[name]}, known).findings):
            document.report(wrong.code, (*place, name), wrong.message, hint=wrong.hint)
            found.pop(name, None)


def _is_value(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _fail(finding: Finding) -> None:
    text = f"{finding.where}: {finding.message}" if finding.where else finding.message
    at = evaluation.Origin(finding.file, finding.line) if finding.line else None
    evaluation.fail("options-file", text if at else f"{finding.file}: {text}", hint=finding.hint or None, at=at)
