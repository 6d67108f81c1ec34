"""Which CPython a `PythonEnv` means, and which of its files belong into a sandbox."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hermetic.errors import Domain, HermeticError

__all__ = ["Interpreter", "describe", "stdlib_files", "stdlib_folders"]

_SUPPORTED: Final = ((3, 11), (3, 12), (3, 13))
_PROBE: Final = """\
import json, os, platform, sys, sysconfig
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "stdlib": os.path.dirname(os.path.realpath(os.__file__)),
    "platlibdir": sys.platlibdir,
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "libc": " ".join(platform.libc_ver()),
}))
"""
# Folders and files of a standard library that no stage can use: there is no display, no pip, and no test of Python.
_LEFT_OUT: Final = frozenset(
    {
        "__pycache__",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "idle_test",
        "tkinter",
        "turtledemo",
        "turtle.py",
        "ensurepip",
        "lib2to3",
        "sitecustomize.py",
        "usercustomize.py",
        "EXTERNALLY-MANAGED",
    }
)
_LEFT_OUT_PREFIXES: Final = ("config-", "nis.", "_tkinter.", "_test", "_xxtestfuzz", "_ctypes_test", "xxlimited", "_xx")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython of this machine.

    `executable` and `stdlib` are real paths, `inside` is where its standard library goes below the prefix
    ("lib/python3.11"), `libc` as `platform.libc_ver` says it ("glibc 2.36").
    """

    executable: str
    stdlib: str
    inside: str
    version: str
    libc: str

    @property
    def minor(self) -> str:
        """The version that file names carry, "3.11"."""
        return ".".join(self.version.split(".")[:2])


def describe(wanted: str) -> Interpreter:
    """The interpreter that `PythonEnv.python` names: "" for the running one, a version, a command or a path.

    Raises `HermeticError`: environment/no-interpreter if there is none, environment/unsupported-interpreter if it is
    no CPython 3.11 to 3.13 on glibc.
    """
    return _describe(wanted, os.environ.get("PATH", os.defpath))


@functools.cache
def _describe(wanted: str, path: str) -> Interpreter:
    facts = _running() if not wanted else _ask(_find(wanted, path))
    _check(facts)
    inside = f"{facts['platlibdir']}/{os.path.basename(facts['stdlib'])}"
    return Interpreter(facts["executable"], facts["stdlib"], inside, facts["version"], facts["libc"])


def _running() -> dict[str, str]:
    return {
        "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        "stdlib": os.path.dirname(os.path.realpath(os.__file__)),
        "platlibdir": sys.platlibdir,
        "version": platform.python_version(),
        "implementation": sys.implementation.name,
        "free_threaded": "yes" if sysconfig.get_config_var("Py_GIL_DISABLED") else "",
        "libc": " ".join(platform.libc_ver()),
    }


def _find(wanted: str, path: str) -> str:
    command = f"python{wanted}" if wanted[0].isdigit() else wanted
    found = shutil.which(command, path=path) or shutil.which(command.rpartition(".")[0], path=path)
    if found is None:
        message = f"there is no interpreter {wanted!r} on this machine"
        hint = f"uv python install {wanted}, or drop python= to use the one that runs hermetic"
        raise HermeticError(Domain.ENVIRONMENT, "no-interpreter", message, hint=hint)
    return found


def _ask(executable: str) -> dict[str, str]:
    result = subprocess.run([executable, "-I", "-S", "-c", _PROBE], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        message = f"{executable} does not work as a Python interpreter: {result.stderr.strip()[-500:]}"
        raise HermeticError(Domain.ENVIRONMENT, "unsupported-interpreter", message)
    facts: dict[str, str] = json.loads(result.stdout)
    return facts


def _check(facts: dict[str, str]) -> None:
    version = tuple(int(part) for part in facts["version"].rstrip("+").split(".")[:2])
    problem = ""
    if facts["implementation"] != "cpython":
        problem = f"is {facts['implementation']}, not CPython"
    elif version not in _SUPPORTED:
        problem = f"is version {facts['version']}, not 3.11 to 3.13"
    elif facts["free_threaded"]:
        problem = "is a free-threaded build, for which wheels differ"
    elif not facts["libc"].startswith("glibc"):
        problem = "does not stand on glibc, which manylinux wheels need"
    elif not os.path.isdir(f"{facts['stdlib']}/lib-dynload"):
        problem = f"has no {facts['stdlib']}/lib-dynload"
    if problem:
        message = f"the interpreter {facts['executable']} {problem}"
        hint = 'name another with PythonEnv(..., python="3.12")'
        raise HermeticError(Domain.ENVIRONMENT, "unsupported-interpreter", message, hint=hint)


def stdlib_folders(interpreter: Interpreter) -> Iterator[str]:
    """The folders that `stdlib_files` looks into: a module that is added shows in their time stamps."""
    folders = {os.path.dirname(name) for name, _ in stdlib_files(interpreter)}
    return (os.path.join(interpreter.stdlib, folder).rstrip("/") for folder in sorted(folders))


def stdlib_files(interpreter: Interpreter) -> Iterator[tuple[str, str]]:
    """Pairs of name below the standard library and path of everything that a stage may import, folders sorted."""
    yield from _walk(interpreter.stdlib, "")


def _walk(folder: str, below: str) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name in _LEFT_OUT or entry.name.startswith(_LEFT_OUT_PREFIXES):
            continue
        name = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{name}/")
        elif _is_file(entry):
            yield name, entry.path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Symlinks count as what they point to (Debian links some modules); a broken one is left out."""
    if entry.is_file(follow_symlinks=False):
        return not entry.name.endswith((".pyc", ".pyo", ".a"))
    try:
        return entry.is_symlink() and stat.S_ISREG(entry.stat().st_mode)
    except FileNotFoundError:
        return False
