"""Everything there is to say about a config."""

from __future__ import annotations

from collections.abc import Iterator

from hermetic.llm.findings import Finding, Severity, errors_of
from hermetic.llm.truss import advice, checks, folder
from hermetic.llm.truss.load import Truss, load
from hermetic.llm.truss.plan import plan_of
from hermetic.llm.truss.rules import CHECKS, warning

__all__ = ["examined", "in_order", "lint", "missing"]

_RULES = (advice, checks, folder)  # each registers its rules when it is imported
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def lint(file: str, shown: str = "") -> list[Finding]:
    """All findings about the config in `file`. Raises `HermeticError` (usage/no-recipe) if it cannot be read."""
    return examined(load(file, shown))


def examined(truss: Truss) -> list[Finding]:
    """All findings about `truss`, errors first, each kind by line."""
    found = [*truss.findings, *CHECKS.run(truss)]
    if not errors_of(found):
        found += missing(truss)
    return in_order(found)


def in_order(found: list[Finding]) -> list[Finding]:
    """Errors first, each kind by line."""
    return sorted(found, key=lambda item: (_ORDER[item.severity], item.line))


def missing(truss: Truss) -> Iterator[Finding]:
    """What a config without errors asks for and hermetic does not build yet; warnings, as Truss accepts it."""
    plan = plan_of(truss)
    for item in plan.missing if plan is not None else ():
        message = f"hermetic does not build this yet: {item.what}"
        yield warning(truss, "not-yet-built", item.field, message, source="hermetic")
