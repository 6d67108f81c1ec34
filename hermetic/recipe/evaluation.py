"""The evaluation in progress: where the recipe lies, what was set, what went wrong so far.

Constructors of stages and sources ask for it, so that a recipe with five mistakes shows five errors, each with its
line, instead of the first one only. Outside an evaluation (a library user building stages in a program of his own)
errors are raised at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hermetic.errors import Domain, HermeticError
from hermetic.recipe.memo import Memo

if TYPE_CHECKING:
    from hermetic.recipe.lockfile import LockFile

__all__ = ["Evaluation", "Origin", "apart", "asked_by_recipe", "current", "fail", "origin", "resolve"]

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD = tuple({os.path.dirname(os.__file__) + os.sep, os.path.dirname(os.path.realpath(os.__file__)) + os.sep})
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True, slots=True)
class Origin:
    """A line of a recipe."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Evaluation:
    """What one `load` collects."""

    file: str
    overrides: dict[str, str]
    memo: Memo
    start: str  # what relative paths given on the command line are relative to
    errors: list[HermeticError] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    parameters: dict[str, object] = field(default_factory=dict)
    suspended: int = 0
    lock: LockFile | None = None  # once something has asked for it

    @property
    def directory(self) -> str:
        return os.path.dirname(self.file)

    def shown(self, path: str) -> str:
        """`path` as the user would write it: relative to where the command runs, if it lies below."""
        inside = path.startswith(self.start.rstrip(os.sep) + os.sep)
        return os.path.relpath(path, self.start) if inside else path

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Hermetic's own code and the import system run here: the purity rules do not apply to them."""
        self.suspended += 1
        try:
            yield
        finally:
            self.suspended -= 1


_current: ContextVar[Evaluation | None] = ContextVar("evaluation", default=None)


def current() -> Evaluation | None:
    return _current.get()


@contextmanager
def active(evaluation: Evaluation) -> Iterator[None]:
    token = _current.set(evaluation)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def apart() -> Iterator[None]:
    """Inside there is no evaluation: mistakes are raised, and hold nobody up."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def origin() -> Origin | None:
    """The innermost line of the recipe, or else of any code that is not hermetic's, on the stack."""
    evaluation = current()
    frame = sys._getframe(1)  # noqa: SLF001  # the only way to a caller's line that costs microseconds
    fallback: Origin | None = None
    while frame is not None:
        name = frame.f_code.co_filename
        if evaluation is not None and name in evaluation.files:
            return Origin(evaluation.shown(name), frame.f_lineno)
        if fallback is None and not name.startswith((_PACKAGE, "<")):
            fallback = Origin(name, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None if evaluation is not None else fallback


def asked_by_recipe() -> bool:
    """Whether the recipe itself, perhaps through the standard library, is what calls.

    Libraries that a recipe uses may ask the machine for their own purposes: pydantic reads the environment whenever a
    class is made.
    """
    running = current()
    frame = sys._getframe(1)  # noqa: SLF001  # as above
    while running is not None and frame is not None:
        name = frame.f_code.co_filename
        if name in running.files:
            return True
        if not _is_standard(name) and not name.startswith(_OWN):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_standard(file: str) -> bool:
    if file.startswith("<frozen"):
        return True
    return file.startswith(_STANDARD) and "-packages" + os.sep not in file  # site-packages, Debian's dist-packages


def fail(reason: str, message: str, *, hint: str | None = None, at: Origin | None = None) -> None:
    """Report a mistake in a recipe: collected during an evaluation, raised outside of one."""
    place = at or origin()
    text = f"{place}: {message}" if place else message
    data: dict[str, object] = {"file": place.file, "line": place.line} if place else {}
    error = HermeticError(Domain.RECIPE, reason, text, hint=hint, data=data)
    evaluation = current()
    if evaluation is None:
        raise error
    evaluation.errors.append(error)


def resolve(path: str | os.PathLike[str]) -> str:
    """`path` as an absolute one: relative paths are relative to the recipe, or to the current folder without one."""
    text = os.fspath(path)
    evaluation = current()
    base = evaluation.directory if evaluation is not None else os.getcwd()
    return os.path.normpath(os.path.join(base, text))
