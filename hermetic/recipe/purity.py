"""What a recipe may do while it is evaluated: read files, and nothing else that could change its result.

Three nets, each for what the one before cannot see:

* imports are limited to the standard library without its doors to the outside, hermetic, and modules beside the recipe;
* an audit hook refuses sockets, processes, ctypes and writes, and records every file opened and folder listed;
* functions that raise no audit event are replaced for the time of the evaluation: looks at files are recorded
  (`os.stat` and friends), clock and environment are refused.

They guard against accidents and make the evaluation cache exact. They are no defence against a hostile recipe, which
is a program that its user chose to run.
"""

from __future__ import annotations

import builtins
import datetime
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest import mock

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import evaluation

__all__ = ["REFUSED_MODULES", "guarded", "refuse"]

_ADVICE = "a recipe must give the same stages everywhere; take the value as a parameter: param('name', ...)"

#: Standard modules whose only use in a recipe would be impure, and what they stand for.
REFUSED_MODULES = {
    **dict.fromkeys(("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "asyncio", "selectors"), "the network"),
    **dict.fromkeys(("subprocess", "multiprocessing", "threading", "concurrent", "signal", "pty"), "other processes"),
    **dict.fromkeys(("ctypes", "mmap", "fcntl"), "memory outside Python"),
    **dict.fromkeys(("time", "sched"), "the clock"),
    **dict.fromkeys(("random", "secrets", "uuid", "tempfile"), "randomness"),
    **dict.fromkeys(("platform", "pwd", "grp", "getpass", "resource"), "this machine"),
}

_REFUSED_EVENTS = {
    "socket": "opens a socket",
    "subprocess": "starts a process",
    "ctypes": "uses ctypes",
}
_REFUSED_NAMES = {
    **dict.fromkeys(
        ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"), "starts a process"
    ),
    **dict.fromkeys(("os.putenv", "os.unsetenv"), "changes the environment"),
    **dict.fromkeys(
        (
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.chmod",
            "os.chown",
            "os.truncate",
            "os.link",
            "os.symlink",
        ),
        "changes files",
    ),
}
_CLOCK = (
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "localtime",
    "gmtime",
    "ctime",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_installed = False


def refuse(what: str) -> NoReturn:
    """Stop the evaluation at the line of the recipe that is running."""
    place = evaluation.origin()
    data: dict[str, object] = {"file": place.file, "line": place.line} if place else {}
    text = f"{place}: the recipe {what}" if place else f"the recipe {what}"
    raise HermeticError(Domain.RECIPE, "impure", text, hint=_ADVICE, data=data)


@contextmanager
def guarded(running: evaluation.Evaluation) -> Iterator[None]:
    """Apply the rules to everything that runs inside, except where `running.trusted()` is active."""
    _install_hook()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "dont_write_bytecode", True))
        for module, name, replacement in _replacements(running):
            stack.enter_context(mock.patch.object(module, name, replacement))
        yield


def _install_hook() -> None:
    """Audit hooks cannot be removed, so there is one for the life of the process and it asks what is running."""
    global _installed  # noqa: PLW0603
    if not _installed:
        sys.addaudithook(_audit)
        _installed = True


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    running = evaluation.current()
    if running is None or running.suspended:
        return
    what = _REFUSED_EVENTS.get(event.partition(".")[0]) or _REFUSED_NAMES.get(event)
    if what is not None and evaluation.asked_by_recipe():
        refuse(what)
    if event == "open":
        _opened(running, arguments)
    elif event in ("os.listdir", "os.scandir"):
        _observe(running, arguments[0] if arguments[0] is not None else ".")


def _opened(running: evaluation.Evaluation, arguments: tuple[Any, ...]) -> None:
    path, mode, flags = arguments
    writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITING)
    if writes and evaluation.asked_by_recipe():
        refuse(f"writes to {path}")
    _observe(running, path)


def _observe(running: evaluation.Evaluation, path: object) -> None:
    if isinstance(path, (str, bytes, os.PathLike)):
        with running.trusted():
            running.memo.observe(os.path.join(running.directory, os.fsdecode(path)))


def _replacements(running: evaluation.Evaluation) -> Iterator[tuple[Any, str, Any]]:
    for name in _CLOCK:
        yield time, name, _refusing(running, getattr(time, name), "reads the clock")
    yield datetime, "datetime", _Datetime
    yield datetime, "date", _Date
    yield os, "environ", _Environ(running, os.environ)
    for name in ("getenv", "getlogin", "uname", "cpu_count", "urandom"):
        yield os, name, _refusing(running, getattr(os, name), f"asks the machine (os.{name})")
    yield os.path, "expanduser", _refusing(running, os.path.expanduser, "reads the environment (the home folder)")
    yield os.path, "expandvars", _refusing(running, os.path.expandvars, "reads the environment")
    yield random, "random", _refusing(running, random.random, "uses randomness")
    for name in ("stat", "lstat", "access", "readlink"):
        yield os, name, _recording(running, getattr(os, name))


def _refusing(running: evaluation.Evaluation, function: Callable[..., Any], what: str) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **named: Any) -> Any:
        if not running.suspended and evaluation.asked_by_recipe():
            refuse(what)
        return function(*arguments, **named)

    return wrapper


def _recording(running: evaluation.Evaluation, function: Callable[..., Any]) -> Callable[..., Any]:
    """`os.stat` and its like raise no audit event, yet `Path.exists()` can steer a recipe."""

    def wrapper(path: Any, *arguments: Any, **named: Any) -> Any:
        if not running.suspended:
            _observe(running, path)
        return function(path, *arguments, **named)

    return wrapper


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:  # noqa: ARG003
        refuse("reads the clock")

    @classmethod
    def utcnow(cls) -> Any:
        refuse("reads the clock")

    @classmethod
    def today(cls) -> Any:
        refuse("reads the clock")


class _Date(datetime.date):
    @classmethod
    def today(cls) -> Any:
        refuse("reads the clock")


class _Environ:
    """`os.environ` as the recipe finds it; hermetic's own code and the import system still reach the real one."""

    def __init__(self, running: evaluation.Evaluation, real: os._Environ[str]) -> None:
        self._running = running
        self._real = real

    def _reach(self) -> os._Environ[str]:
        if not self._running.suspended and evaluation.asked_by_recipe():
            refuse("reads the environment")
        return self._real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reach(), name)

    def __getitem__(self, name: str) -> str:
        return self._reach()[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._reach()[name] = value

    def __delitem__(self, name: str) -> None:
        del self._reach()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._reach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._reach())

    def __len__(self) -> int:
        return len(self._reach())


def guarded_builtins(importer: Callable[..., Any]) -> dict[str, Any]:
    """The builtins a recipe runs with: everything, with `importer` in the place of ``__import__``."""
    names = dict(vars(builtins))
    names["__import__"] = importer
    return names
