"""Compiles a tree of Python files to bytecode that depends on nothing but the files and the interpreter.

Without it every stage would compile its imports anew, which takes 10 s for a numeric stack. The files are dealt to a
fixed number of interpreters by their order, not by who is free: what a process compiled before can change the bytes
(interned strings are marshalled by reference), so the split must not depend on the machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.mortal import dies_with_driver
from hermetic.sandbox.together import together

__all__ = ["compile_tree"]

_SLICES: Final = 8
_SKIPPED: Final = frozenset({"test", "tests", "testing_data", "__pycache__"})
_SCRIPT: Final = """\
import importlib.util, os, py_compile, sys
base, shown = sys.argv[1:3]
for name in sys.stdin.read().split("\\0"):
    if name:
        path = os.path.join(base, name)
        try:
            py_compile.compile(
                path, importlib.util.cache_from_source(path), dfile=os.path.join(shown, name), doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except (py_compile.PyCompileError, ValueError, UnicodeDecodeError, RecursionError):
            pass  # templates and code for other versions; whoever imports it will hear of it
"""


async def compile_tree(folder: str, shown: str, executable: str) -> None:
    """Write ``__pycache__`` for the modules in `folder`, which stages see at `shown`. Tests are left uncompiled.

    Raises `HermeticError` (environment/compile-failed) if the interpreter itself fails.
    """
    names = sorted(_modules(folder, ""))
    busy = asyncio.Semaphore(len(os.sched_getaffinity(0)))
    slices = [names[first::_SLICES] for first in range(_SLICES)]
    await together(_compile(each, folder, shown, executable, busy) for each in slices if each)


def _modules(folder: str, below: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED:
                    yield from _modules(entry.path, f"{below}{entry.name}/")
            elif entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
                yield f"{below}{entry.name}"


async def _compile(names: list[str], folder: str, shown: str, executable: str, busy: asyncio.Semaphore) -> None:
    async with busy:
        process = await asyncio.create_subprocess_exec(
            executable,
            *("-I", "-S", "-B", "-W", "ignore", "-c", _SCRIPT, folder, shown),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
            preexec_fn=dies_with_driver(),
        )
        try:
            _, said = await process.communicate("\0".join(names).encode())
        except BaseException:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
    if process.returncode != 0:
        message = f"{executable} could not compile {folder}: {said.decode(errors='replace').strip()[-500:]}"
        raise HermeticError(Domain.ENVIRONMENT, "compile-failed", message)
