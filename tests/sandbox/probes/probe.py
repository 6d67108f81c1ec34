"""How a probe is written: a function that returns what it saw, and raises `Leak` if that is more than P5 allows."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Callable

PROBES: dict[str, Callable[[], object]] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = os.uname().machine
with open("/build/stage.json", encoding="utf-8") as _stream:
    FACTS = json.load(_stream)  # what the test planted outside


class Leak(Exception):  # noqa: N818
    pass


def probe(function: Callable[[], object]) -> Callable[[], object]:
    PROBES[function.__name__] = function
    return function


def refused(call: Callable[[], object], *errors: int) -> str:
    """`call` must fail; with `errors` in one of these ways."""
    try:
        result = call()
    except OSError as error:
        if errors and error.errno not in errors:
            raise Leak(f"failed with {error!r}, not with {[errno.errorcode[each] for each in errors]}") from error
        return errno.errorcode.get(error.errno or 0, str(error))
    raise Leak(f"worked, with {result!r}")


def require(condition: object, saw: object) -> object:
    if not condition:
        raise Leak(f"saw {saw!r}")
    return saw


def syscall(x86_64: int, aarch64: int, *arguments: object) -> int:
    """A system call by number, as `OSError` if it fails."""
    number = {"x86_64": x86_64, "aarch64": aarch64}[MACHINE]
    result = int(LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
