"""The options of TensorRT-LLM's builders and checkpoint scripts, version by version, from the tables beside this file.

A table's row says in which versions an option is known to be there, and where nobody looked: ``since`` is the first
version that has it, ``absent`` the last one seen without it (in between it is not known), ``gone`` the first without
it again and ``present`` the last one seen with it. ``default`` lists ``[first, last, value]``; a version in no range
has a default that is not known. A version stands for all its patch releases.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hermetic.errors import Domain, HermeticError

__all__ = ["UNKNOWN", "Option", "Table", "Value", "Wrong", "table"]

Value = str | int | bool | list[str]
Known = Literal["yes", "no", "unknown"]

#: In place of a default that is not known.
UNKNOWN: Final = object()

_FILES: Final = {
    "trtllm-build": "trtllm-build.json",
    "trtllm-bench": "trtllm-bench.json",
    "trtllm-bench build": "trtllm-bench-build.json",
    "convert_checkpoint.py": "convert-checkpoint.json",
    "quantize.py": "quantize.json",
}


@dataclass(frozen=True)
class Option:
    """One option of one version. `name` is its first spelling without dashes; `row` is the table's."""

    name: str
    version: str
    row: Mapping[str, Any]

    @property
    def spellings(self) -> list[str]:
        return list(self.row["names"])

    @property
    def type(self) -> str:
        """``str``, ``int``, ``bool`` (the words True and False), ``flag`` (no value) or ``list``."""
        until = self.row.get("flag_until")
        if until is not None and _order(self.version) <= _order(until):
            return "flag"
        return "list" if self.row.get("nargs") == "+" else str(self.row.get("type", "str"))

    @property
    def choices(self) -> list[str]:
        """The values it takes; empty where any will do."""
        since = self.row.get("choices_since", {})
        here = _order(self.version)
        return [one for one in self.row.get("choices", ()) if one not in since or here >= _order(since[one])]

    @property
    def default(self) -> object:
        """None without one, `UNKNOWN` where it is not known for this version."""
        if self.type == "flag":
            return False
        ranges = self.row.get("default", ())
        here = _order(self.version)
        found = [value for first, last, value in ranges if _order(first) <= here <= _order(last)]
        return found[0] if found else UNKNOWN if ranges else None

    @property
    def presence(self) -> Known:
        """Whether this version has it."""
        here = _order(self.version)
        if "since" in self.row and here < _order(self.row["since"]):
            return "unknown" if "absent" in self.row and here > _order(self.row["absent"]) else "no"
        if "gone" in self.row and here >= _order(self.row["gone"]):
            return "no"
        if "present" in self.row and here > _order(self.row["present"]):
            return "unknown"
        return "yes"

    @property
    def instead(self) -> str:
        """What to use in this version in its place, "" if nothing is known."""
        known: dict[str, str] = self.row.get("instead", {})
        here = _order(self.version)
        older = [since for since in known if _order(since) <= here]
        return known[max(older, key=_order)] if older else ""

    @property
    def deprecated(self) -> bool:
        since = self.row.get("deprecated")
        return since is not None and _order(self.version) >= _order(since)

    def read(self, given: object) -> Value:
        """`given`, a word or a recipe's value, as the tool would take it. Raises `ValueError` saying what it takes."""
        if self.type == "flag":
            return _boolean(given)
        if self.type == "list":
            return [str(one) for one in given] if isinstance(given, list | tuple) else str(given).split()
        if self.type == "int":
            return _integer(given)
        if self.type == "bool":
            return str(_boolean(given))
        text = _switch(given) if self.choices == ["enable", "disable"] else str(given)
        text = text.lower() if self.row.get("fold") else text
        if self.choices and text not in self.choices:
            raise ValueError(f"one of {', '.join(self.choices)}")
        return text


@dataclass(frozen=True)
class Wrong:
    """A spelling that no version takes: `means` is the option that was meant, `instead` says what to do."""

    names: tuple[str, ...]
    means: str = ""
    instead: str = ""


class Table:
    """All options of one tool in one version."""

    def __init__(self, document: Mapping[str, Any], version: str) -> None:
        self.tool: str = document["tool"]
        self.version = version
        self.sources: tuple[str, ...] = tuple(document["sources"])
        self.options = tuple(Option(row["names"][0].lstrip("-"), version, row) for row in document["options"])
        self.wrong = tuple(
            Wrong(tuple(row["names"]), row.get("means", ""), row.get("instead", "")) for row in document["never"]
        )
        self._by_spelling = {spelling: option for option in self.options for spelling in option.spellings}

    def find(self, spelling: str) -> Option | None:
        """The option that is written so, whether or not this version has it."""
        return self._by_spelling.get(spelling)

    def abbreviated(self, spelling: str) -> Option | None:
        """The one option of this version that begins so; argparse would take it."""
        found = {
            option.name: option
            for known, option in self._by_spelling.items()
            if spelling.startswith("--") and known.startswith(spelling) and option.presence != "no"
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def never(self, spelling: str) -> Wrong | None:
        """What is known of a spelling that no version takes."""
        return next((wrong for wrong in self.wrong if spelling in wrong.names), None)

    def meant(self, spelling: str) -> Option | None:
        """The option of this version that was most likely meant: with underscores, or nearly so."""
        underscored = "--" + spelling.lstrip("-").replace("-", "_")
        here = {known: option for known, option in self._by_spelling.items() if option.presence != "no"}
        if underscored in here:
            return here[underscored]
        close = difflib.get_close_matches(underscored, here, n=1, cutoff=0.8)
        return here[close[0]] if close else None


@functools.cache
def table(tool: str, version: str) -> Table:
    """The options of `tool`, such as ``trtllm-build`` or ``trtllm-bench build``, in a release such as ``1.2.1``.

    Raises `HermeticError` (recipe/unknown-version): no table, or a release that no longer has the tool.
    """
    document = json.loads((Path(__file__).parent / _FILES[tool]).read_bytes())
    known: Sequence[str] = document["versions"]
    if version not in known:
        message = f"there is no table of {tool}'s options in TensorRT-LLM {version}"
        hint = f"known are {known[0]} to {known[-1]}: {', '.join(known)}"
        if _is_later(version, known[-1]):
            hint = (
                f"TensorRT-LLM has no engine builder after 1.3.0rc20; {known[-1]} is the last stable release with one"
            )
        raise HermeticError(Domain.RECIPE, "unknown-version", message, hint=hint)
    return Table(document, version)


def _is_later(version: str, last: str) -> bool:
    return re.fullmatch(r"\d+\.\d+.*", version) is not None and _order(version) > _order(last)


def _order(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(re.match(r"\d*", minor)[0] or 0)  # type: ignore[index]


def _integer(given: object) -> int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if not isinstance(given, str) or not re.fullmatch(r"[+-]?\d+", given.strip()):
        raise ValueError("a whole number")
    return int(given)


def _boolean(given: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(given, bool):
        return given
    if not isinstance(given, str) or given.lower() not in words:
        raise ValueError("true or false")
    return words[given.lower()]


def _switch(given: object) -> str:
    """A recipe may say True where the command line says ``enable``."""
    if isinstance(given, bool):
        return "enable" if given else "disable"
    return str(given)
