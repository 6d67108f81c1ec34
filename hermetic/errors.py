"""Every failure a user can meet, as one tree.

::

    HermeticError(domain, reason, message, hint, data)
    └── HermeticErrors      several of them, found in one go and shown together

``domain`` says whose problem it is and fixes the exit code, ``reason`` is a stable kebab-case word that tests and
scripts match, ``message`` says what happened to which object, ``hint`` what to run or change next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

__all__ = ["EXIT_CODES", "Domain", "HermeticError", "HermeticErrors"]


class Domain(str, Enum):
    """Whose problem an error is. The value is what is printed; `EXIT_CODES` has the exit code of each."""

    BUG = "bug"
    USAGE = "usage"
    RECIPE = "recipe"
    ENVIRONMENT = "environment"
    TRUST = "trust"
    STORE = "store"
    CACHE = "cache"
    BUSY = "busy"
    BUILD = "build"
    TIMEOUT = "timeout"
    HASH = "hash"
    REPRODUCIBILITY = "reproducibility"


EXIT_CODES: Mapping[Domain, int] = {
    Domain.BUG: 1,
    Domain.USAGE: 2,
    Domain.RECIPE: 3,
    Domain.ENVIRONMENT: 4,
    Domain.TRUST: 5,
    Domain.STORE: 6,
    Domain.CACHE: 7,
    Domain.BUSY: 8,
    Domain.BUILD: 100,
    Domain.TIMEOUT: 101,
    Domain.HASH: 102,
    Domain.REPRODUCIBILITY: 104,
}


class HermeticError(Exception):
    """One failure, with everything needed to act on it. Survives pickling."""

    def __init__(
        self,
        domain: Domain,
        reason: str,
        message: str,
        *,
        hint: str | None = None,
        data: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(domain, reason, message)
        self.domain = domain
        self.reason = reason
        self.message = message
        self.hint = hint
        self.data: dict[str, object] = dict(data or {})

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.domain]

    def __str__(self) -> str:
        return f"{self.domain.value}/{self.reason}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.domain, self.reason, self.message, self.hint, self.data)


def _rebuild(
    cls: type[HermeticError],
    domain: Domain,
    reason: str,
    message: str,
    hint: str | None,
    data: dict[str, object],
) -> HermeticError:
    return cls(domain, reason, message, hint=hint, data=data)


class HermeticErrors(HermeticError):
    """Several failures of one pass. Exits like the first; codes 100 to 104 of all of them are or-ed."""

    def __init__(self, errors: Iterable[HermeticError]) -> None:
        self.errors = list(errors)
        first = self.errors[0]
        super().__init__(first.domain, first.reason, f"{len(self.errors)} errors")

    @property
    def exit_code(self) -> int:
        codes = [error.exit_code for error in self.errors]
        if all(code >= 100 for code in codes):
            combined = 0
            for code in codes:
                combined |= code
            return combined
        return next(code for code in codes if code < 100)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.errors,)
