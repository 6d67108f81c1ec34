"""Everything there is to say about a config."""

from __future__ import annotations

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.truss import advice, checks, folder
from hermetic.llm.truss.load import Truss, load
from hermetic.llm.truss.rules import CHECKS

__all__ = ["examined", "lint"]

_RULES = (advice, checks, folder)  # each registers its rules when it is imported
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def lint(file: str, shown: str = "") -> list[Finding]:
    """All findings about the config in `file`. Raises `HermeticError` (usage/no-recipe) if it cannot be read."""
    return examined(load(file, shown))


def examined(truss: Truss) -> list[Finding]:
    """All findings about `truss`, errors first, each kind by line."""
    found = [*truss.findings, *CHECKS.run(truss)]
    return sorted(found, key=lambda item: (_ORDER[item.severity], item.line))
