"""All output of the command line: data on stdout, everything for people on stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from hermetic.errors import Domain, HermeticError, HermeticErrors

__all__ = ["data", "is_terminal", "json_line", "note", "show_error"]

_STYLES = {"error": "\x1b[1;31m", "hint": "\x1b[36m", "warning": "\x1b[1;33m"}


def data(text: str) -> None:
    """One line of the result, on stdout. Where nobody reads on, as after ``| head``, the command ends as done."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # which click would make exit code 1
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # the interpreter flushes stdout at exit
        raise SystemExit(0) from None


def json_line(value: Any) -> None:
    """One JSON document on one line of stdout."""
    data(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))


def note(text: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def is_terminal() -> bool:
    """Whether a live display makes sense: stderr is a terminal and nothing asks for plain output."""
    return sys.stderr.isatty() and "NO_PROGRESS" not in os.environ and os.environ.get("TERM") != "dumb"


def show_error(error: HermeticError) -> None:
    """Say what happened, to what, and what to do next."""
    for one in error.errors if isinstance(error, HermeticErrors) else [error]:
        note(f"{_paint('error', 'error')}[{one.domain.value}/{one.reason}]: {one.message}")
        for line in one.data.get("log_tail", ()):  # type: ignore[attr-defined]
            note(f"  | {line}")
        if one.hint:
            note(f"\n{_paint('hint', 'hint')}: {one.hint}")
    if error.domain is Domain.BUG:
        note("this is a bug in hermetic; please report it with the output above")


def warning(text: str) -> None:
    note(f"{_paint('warning', 'warning')}: {text}")


def _paint(style: str, text: str) -> str:
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return f"{_STYLES[style]}{text}\x1b[0m" if coloured else text
