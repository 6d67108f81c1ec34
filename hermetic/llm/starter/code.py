"""Python as data, just enough for recipes: assignments of calls, written as ruff formats them.

Whatever goes in as a value comes out as a literal, so no name that somebody gives can become code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Call", "Let", "Name", "Text", "Value", "module"]

_WIDTH: Final = 120
#: Where each name that recipes use comes from; what is not here is a variable of the recipe.
_HOMES: Final = {
    **dict.fromkeys(("Gpu", "Image", "Source", "hub_dataset", "hub_snapshot", "param"), "hermetic"),
    **dict.fromkeys(("aoti", "openvino", "tensorrt_llm"), "hermetic.llm"),
    **dict.fromkeys(("Target", "calibration", "quantise"), "hermetic.llm.quantise"),
    "Manifest": "hermetic.llm.pytorch",
    "Path": "pathlib",
    "PyTorchModel": "hermetic.llm.pytorch",
    "Smoke": "hermetic.llm.smoke",
    "convert": "hermetic.llm.convert",
    "triton_repository": "hermetic.llm.triton",
}


@dataclass(frozen=True)
class Name:
    """A variable."""

    name: str


@dataclass(frozen=True)
class Call:
    """``function(*args, **fields)``."""

    function: str
    args: tuple[Value, ...] = ()
    fields: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Let:
    """``name = value``, with a comment above and another behind; `apart` puts an empty line before it."""

    name: str
    value: Value
    above: str = ""
    behind: str = ""
    apart: bool = False


@dataclass(frozen=True)
class Text:
    """The lines that a file begins with, as its document."""

    lines: tuple[str, ...]


Value = str | int | bool | Name | Call | tuple[str, ...] | Mapping[str, "Value"]


def module(document: Text, lets: list[Let]) -> str:
    """The whole file."""
    used = sorted({name for let in lets for name in _names(let.value)} & set(_HOMES))
    lines = ['"""' + "\n".join(_plain(line) for line in document.lines), '"""', "", *_imports(used), ""]
    for let in lets:
        lines += [""] if let.apart and lines[-1] else []
        lines += [f"# {line}" for line in let.above.splitlines()]
        behind = f"  # {let.behind}" if let.behind else ""
        lines.append(f"{let.name} = {_written(let.value, len(let.name) + 3)}{behind}")
    return "\n".join(lines) + "\n"


def _plain(line: str) -> str:
    """What would end a document's string, or continue it elsewhere, stands for itself."""
    return " ".join(line.split("\n")).replace("\\", "\\\\").replace('"', '\\"')


def _imports(used: list[str]) -> Iterator[str]:
    homes = sorted({_HOMES[name] for name in used}, key=lambda home: (home.startswith("hermetic"), home))
    for number, home in enumerate(homes):
        if number and home.startswith("hermetic") and not homes[number - 1].startswith("hermetic"):
            yield ""
        named = sorted((name for name in used if _HOMES[name] == home), key=lambda name: (name.islower(), name))
        yield f"from {home} import {', '.join(named)}"


def _names(value: Value) -> Iterator[str]:
    if isinstance(value, Name):
        yield value.name
    elif isinstance(value, Call):
        yield value.function.partition(".")[0]
        for inner in (*value.args, *value.fields.values()):
            yield from _names(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _names(inner)


def _written(value: Value, used: int, indent: int = 0) -> str:
    """`value` on one line if it ends within the width, `used` columns being taken; else an item a line."""
    if isinstance(value, Name):
        return value.name
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool | int):
        return str(value)
    opening, closing, items = _items(value)
    flat = opening + ", ".join(prefix + _written(item, 0) for prefix, item in items)
    flat += "," if isinstance(value, tuple) and len(value) == 1 else ""
    if used + len(flat + closing) < _WIDTH and "\n" not in flat:
        return flat + closing
    inner = indent + 4
    lines = [" " * inner + prefix + _written(item, inner + len(prefix), inner) + "," for prefix, item in items]
    return "\n".join([opening, *lines, " " * indent + closing])


def _items(value: Call | tuple[str, ...] | Mapping[str, Value]) -> tuple[str, str, list[tuple[str, Value]]]:
    if isinstance(value, Call):
        fields = [(f"{name}=", item) for name, item in value.fields.items()]
        return f"{value.function}(", ")", [*(("", item) for item in value.args), *fields]
    if isinstance(value, tuple):
        return "(", ")", [("", item) for item in value]
    return "{", "}", [(f"{_quoted(name)}: ", item) for name, item in value.items()]


def _quoted(text: str) -> str:
    """As ruff quotes it: in double quotes, unless that would need more escapes."""
    shown = repr(text)
    return shown if shown[0] == '"' or '"' in text else f'"{shown[1:-1]}"'
