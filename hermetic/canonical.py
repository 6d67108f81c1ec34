"""Values to canonical bytes: the only encoder of anything that is hashed.

The encoding is RFC 8785 (JCS) over dict, list, str, int and bool. `rfc8785` itself accepts None and floats, which a
preimage must not contain, so the guard here runs first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, Union, cast

import rfc8785

from hermetic.errors import Domain, HermeticError

__all__ = ["Value", "encode", "problems"]

Value: TypeAlias = Union[dict[str, "Value"], list["Value"], str, int, bool]

_LIMIT = 2**53 - 1  # the largest integer that every JSON reader keeps exactly


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`.

    Raises `HermeticError` (bug/not-canonical) on anything outside the five types, integers beyond ±(2**53 − 1) and
    lone surrogates; callers that take a user's values check `problems` first and name the line.
    """
    for where, problem in problems(value):
        raise HermeticError(Domain.BUG, "not-canonical", f"{where or 'the value'}: {problem}")
    return rfc8785.dumps(cast("dict[str, object]", value))  # type: ignore[arg-type]


def problems(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of dotted path and reason for whatever in `value` has no canonical form."""
    if isinstance(value, (bool, str)):
        if isinstance(value, str) and not _encodable(value):
            yield where, "a lone surrogate has no canonical form"
    elif isinstance(value, int):
        if not -_LIMIT <= value <= _LIMIT:
            yield where, f"{value} is outside ±(2**53 − 1); write it as a string"
    elif isinstance(value, float):
        yield where, f"{value!r} is a float, which has no one canonical form; write it as a string"
    elif isinstance(value, (list, dict)):
        yield from _inside(value, where)
    else:
        yield where, f"{type(value).__name__} has no canonical form"


def _inside(value: list[object] | dict[object, object], where: str) -> Iterator[tuple[str, str]]:
    items = enumerate(value) if isinstance(value, list) else value.items()
    for name, item in items:
        path = f"{where}.{name}" if where else str(name)
        if isinstance(value, dict) and not (isinstance(name, str) and _encodable(name)):
            yield path, f"the name {name!r} is not a string"
        yield from problems(item, path)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
