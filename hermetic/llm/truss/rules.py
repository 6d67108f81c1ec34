"""Rules: checks of a config that skip what could not be read.

A rule names the fields that it looks at. Where one of them is wrong by itself the rule is silent: what it would say
of a default in the field's place is not about this config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hermetic.llm.findings import Checks, Finding, Severity
from hermetic.llm.truss.config import COMPARED_WITH
from hermetic.llm.truss.load import Truss
from hermetic.llm.truss.section import EngineBuild, SectionV1, SectionV2

__all__ = ["CHECKS", "TRUSS", "Builds", "builds", "error", "note", "rule", "v1", "v2", "warning"]

CHECKS: Final[Checks[Truss]] = Checks()
#: The source of a rule that is Truss's own.
TRUSS: Final = f"truss {COMPARED_WITH}"

Check = Callable[[Truss], Iterator[Finding]]
Builds = Iterator[tuple[str, EngineBuild]]


def rule(*fields: str) -> Callable[[Check], Check]:
    """Register a check that is skipped where one of `fields` is broken."""

    def register(check: Check) -> Check:
        def guarded(truss: Truss) -> Iterator[Finding]:
            if not any(truss.is_broken(item) for item in fields):
                yield from check(truss)

        CHECKS(guarded)
        return check

    return register


def error(truss: Truss, code: str, where: str, message: str, hint: str = "", source: str = TRUSS) -> Finding:
    return truss.finding(code, Severity.ERROR, where, message, hint, source)


def warning(truss: Truss, code: str, where: str, message: str, hint: str = "", source: str = TRUSS) -> Finding:
    return truss.finding(code, Severity.WARNING, where, message, hint, source)


def note(truss: Truss, code: str, where: str, message: str, hint: str = "", source: str = TRUSS) -> Finding:
    return truss.finding(code, Severity.NOTE, where, message, hint, source)


def v1(truss: Truss) -> SectionV1 | None:
    return truss.section if isinstance(truss.section, SectionV1) else None


def v2(truss: Truss) -> SectionV2 | None:
    return truss.section if isinstance(truss.section, SectionV2) else None


def builds(truss: Truss) -> Builds:
    """Every engine's `build` with its path: the one of the section, and that of a draft model."""
    if truss.section is None:
        return
    where, build = "trt_llm.build", truss.section.build
    while True:
        yield where, build
        if build.speculator is None or build.speculator.build is None:
            return
        where, build = f"{where}.speculator.build", build.speculator.build
