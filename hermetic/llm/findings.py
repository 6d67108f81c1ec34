"""Findings: what a check has to say about a recipe or a config before anything is built.

A check is a function that takes one subject and yields findings; a `Checks` is the list of them for one kind of
subject. Checks run nothing, fetch nothing and never stop at the first mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from pydantic_core import PydanticCustomError

from hermetic.errors import Domain, HermeticError, HermeticErrors

__all__ = ["Checks", "Finding", "Severity", "errors_of", "raise_errors"]

T = TypeVar("T")


class Severity(str, Enum):
    """An `ERROR` cannot be built, a `WARNING` can and is likely not what was meant, a `NOTE` is said once."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    `where` is the dotted path of the field or the name of the stage, `source` what the rule was taken from, if from
    outside; `file` and `line` (from 1; 0 if unknown) are where somebody would change it.
    """

    code: str
    severity: Severity
    where: str
    message: str
    hint: str = ""
    source: str = ""
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.file and self.line else self.file

    def document(self) -> dict[str, object]:
        """As ``hermetic lint --json`` writes it; what is empty is left out."""
        fields = ("code", "where", "message", "hint", "source", "file", "line")
        known = {name: getattr(self, name) for name in fields if getattr(self, name)}
        return {"severity": self.severity.value, **known}

    def error(self, domain: Domain = Domain.RECIPE) -> HermeticError:
        """The finding as what stops a command, with its code as the reason."""
        text = ": ".join(part for part in (self.place, self.where, self.message) if part)
        data = {"field": self.where, "file": self.file, "line": self.line}
        return HermeticError(domain, self.code, text, hint=self.hint or None, data=data)

    def unfit(self) -> PydanticCustomError:
        """The finding as what a stage's own validator raises: the mistake in the recipe has its code and hint."""
        said = {"text": self.message, "hint": self.hint}
        return PydanticCustomError(self.code, "{text}", said)


class Checks(Generic[T]):
    """The checks of one kind of subject, in the order in which they were declared."""

    def __init__(self) -> None:
        self._checks: list[Callable[[T], Iterable[Finding]]] = []

    def __call__(self, check: Callable[[T], Iterable[Finding]]) -> Callable[[T], Iterable[Finding]]:
        """Add `check`; usable as a decorator."""
        self._checks.append(check)
        return check

    def run(self, subject: T) -> Iterator[Finding]:
        """Everything that the checks find in `subject`."""
        for check in self._checks:
            yield from check(subject)


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def raise_errors(findings: Iterable[Finding], domain: Domain = Domain.RECIPE) -> None:
    """Raise all findings of level error at once, as one `HermeticError` or as `HermeticErrors`; nothing if none."""
    errors = [finding.error(domain) for finding in errors_of(findings)]
    if errors:
        raise errors[0] if len(errors) == 1 else HermeticErrors(errors)
