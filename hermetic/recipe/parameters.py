"""Values that a recipe lets its user set: ``--set name=value``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar, cast, overload

from hermetic.recipe import evaluation

__all__ = ["param"]

T = TypeVar("T", str, int, bool, Path)


@overload
def param(name: str, default: T, *, help: str = ..., choices: tuple[T, ...] = ...) -> T: ...
@overload
def param(name: str, *, type: type[T], help: str = ..., choices: tuple[T, ...] = ...) -> T: ...
def param(
    name: str,
    default: T | None = None,
    *,
    type: type[T] | None = None,  # noqa: A002  # the word that argparse and click use
    help: str = "",  # noqa: A002
    choices: tuple[T, ...] = (),
) -> T:
    """Declare the parameter `name` and return its value: what ``--set`` gave, else `default`.

    Its type is that of `default`, or `type` where there is none and the user must give it: str, int, bool
    (true/false, yes/no, 1/0) or Path (relative to where the command runs; `~` is not expanded). The value enters
    keys only through the stages that use it.
    """
    kind = type or default.__class__
    running = evaluation.current()
    given = running.overrides.get(name) if running is not None else None
    if running is not None:
        running.parameters[name] = {"type": kind.__name__, "default": default, "help": help}
    value = default if given is None else _convert(name, kind, given)
    if value is None and given is None:
        evaluation.fail("parameter-missing", f"the parameter {name!r} has no value", hint=f"add --set {name}=VALUE")
    if value is None:
        return cast("T", kind())  # type: ignore[misc]  # a stand-in of the right type; the error is collected
    if choices and value not in choices:
        allowed = ", ".join(str(choice) for choice in choices)
        evaluation.fail("parameter-choice", f"{name}={value} is not one of {allowed}")
    return cast("T", value)


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _convert(name: str, kind: type, text: str) -> object:
    if kind is bool and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if issubclass(kind, Path):
        running = evaluation.current()
        return Path(os.path.join(running.start if running else os.getcwd(), text))
    if kind is str:
        return text
    if kind is int:
        try:
            return int(text)
        except ValueError:
            pass
    evaluation.fail("parameter-type", f"--set {name}={text}: expected {kind.__name__}")
    return None
