"""The options that the stand-in takes in one version: those that hermetic's own tables know to be there."""

from __future__ import annotations

import json
from typing import Any, Final

from hermetic.errors import HermeticError
from hermetic.llm.trtllm import Option, table
from hermetic.llm.trtllm.options import UNKNOWN

__all__ = ["TOOLS", "options_json"]

TOOLS: Final = ("trtllm-build", "trtllm-bench", "trtllm-bench build", "convert_checkpoint.py", "quantize.py")


def options_json(version: str = "1.2.1") -> str:
    """What ``options.json`` beside the stand-in says. A tool without a table for `version` is left out.

    Raises `HermeticError` (recipe/unknown-version) if ``trtllm-build`` has none.
    """
    document: dict[str, Any] = {"standin_for": f"TensorRT-LLM {version}", "version": version}
    table(TOOLS[0], version)
    for tool in TOOLS:
        try:
            options = table(tool, version).options
        except HermeticError:
            continue
        document[tool] = [_row(option) for option in options if option.presence == "yes"]
    return json.dumps(document, indent=1)


def _row(option: Option) -> dict[str, Any]:
    row: dict[str, Any] = {"names": option.spellings, "type": option.type, "choices": option.choices}
    row |= {name: option.row[name] for name in ("fold", "required", "nargs") if name in option.row}
    if option.default not in (None, False, UNKNOWN):
        row["default"] = option.default
    return {name: value for name, value in row.items() if value not in ([], "str")}
