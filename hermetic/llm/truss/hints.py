"""What to write instead: for a misspelt field, a field in the wrong place, a value of the wrong type."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from hermetic.llm.truss.document import Path, dotted

__all__ = ["hint_for"]


def hint_for(kind: type[BaseModel], detail: ErrorDetails, path: Path, prefix: str) -> str:
    """A hint for an error at `path` below a `kind`, which itself stands at `prefix`; ``""`` if there is none."""
    given = detail.get("ctx", {}).get("hint")
    if given:
        return str(given)
    if detail["type"] == "extra_forbidden" and path:
        return _for_field(kind, path, prefix)
    value = detail.get("input")
    if detail["type"] == "string_type" and isinstance(value, (bool, int, float)):
        return f'write it in quotes, as YAML takes it for a {_kind(value)}: "{_written(value)}"'
    if detail["type"] in {"enum", "literal_error"} and isinstance(value, str):
        return _for_value(value, str(detail.get("ctx", {}).get("expected", "")))
    return ""


def _kind(value: object) -> str:
    return "switch" if isinstance(value, bool) else "number"


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _for_value(value: str, expected: str) -> str:
    known = [item.strip(" '") for part in expected.split(",") for item in part.split(" or ")]
    close = difflib.get_close_matches(value.lower(), known, n=1) or difflib.get_close_matches(value, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _for_field(kind: type[BaseModel], path: Path, prefix: str) -> str:
    name = str(path[-1])
    here = model_at(kind, path[:-1])
    places = dict(_every_field(kind, prefix))
    elsewhere = [place for place, field in places.items() if field == name]
    if elsewhere:
        return f"did you mean {min(elsewhere, key=len)}?"
    known = sorted(here.model_fields) if here is not None else []
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    where = dotted(path[:-1]) or prefix or "a config"
    return f"{where} has {', '.join(known)}" if 0 < len(known) <= 12 else ""


def model_at(kind: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model of the value at `path` below a `kind`."""
    here: type[BaseModel] | None = kind
    for part in path:
        if here is None:
            return None
        field = here.model_fields.get(str(part))
        if field is not None:
            here = next(_models(field.annotation), None)
    return here


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _every_field(kind: type[BaseModel], prefix: str, level: int = 0) -> Iterator[tuple[str, str]]:
    """The path and name of every field below `kind`, two levels deep."""
    for name, field in kind.model_fields.items():
        place = f"{prefix}.{name}" if prefix else name
        yield place, name
        inner = next(_models(field.annotation), None)
        if inner is not None and level < 2:
            yield from _every_field(inner, place, level + 1)
