"""The shared libraries of this machine that an interpreter and manylinux wheels stand on.

The dynamic loader is asked, because only it knows its cache, its default folders and each file's RUNPATH: it lists
the interpreter with all extension modules and the manylinux libraries preloaded, in one run of about 3 ms.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import subprocess
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox.interpreter import Interpreter, stdlib_files

__all__ = ["loader_of", "needed", "resolve"]

# What PEP 600 lets a wheel find on the machine, less X11 and GL; plus what glibc itself opens at run time. A name
# that this machine lacks is left out: a wheel that needs it says so when it is imported.
_MANYLINUX: Final = (
    "libatomic.so.1",
    "libc.so.6",
    "libcrypt.so.1",
    "libdl.so.2",
    "libexpat.so.1",
    "libgcc_s.so.1",
    "libm.so.6",
    "libmvec.so.1",
    "libnsl.so.1",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
    "libz.so.1",
)
_FOUND: Final = re.compile(r"^\s*(?:(\S+) => )?(/\S.*) \(0x[0-9a-f]+\)$")
_MISSING: Final = re.compile(r"^\s*(\S+) => not found$")
_PT_INTERP: Final = 3


def resolve(interpreter: Interpreter) -> dict[str, str]:
    """Library name to the file that the loader takes for it, loader included.

    Raises `HermeticError` (environment/unsupported-interpreter) if the executable is not dynamically linked to glibc
    or one of its own libraries is missing.
    """
    return dict(_resolve(interpreter))


@functools.cache
def _resolve(interpreter: Interpreter) -> tuple[tuple[str, str], ...]:
    loader = loader_of(interpreter.executable)
    modules = [path for name, path in stdlib_files(interpreter) if name.startswith("lib-dynload/")]
    listing = _list(loader, [*_MANYLINUX, *modules], interpreter.executable)
    own = set(modules) | {interpreter.executable}
    found = {os.path.basename(loader): loader}
    for name, path in listing:
        if path not in own:
            found.setdefault(os.path.basename(name or path), path)
    return tuple(sorted(found.items()))


def needed(executable: str) -> dict[str, str]:
    """Library name to file of all that the program `executable` is linked to, loader included. Raises as `resolve`."""
    loader = loader_of(executable)
    return {os.path.basename(loader): loader} | {
        os.path.basename(name or path): path for name, path in _list(loader, [], executable)
    }


def _list(loader: str, preload: list[str], executable: str) -> list[tuple[str, str]]:
    """Pairs of the name that was asked for and the path of every library that `executable` would be given."""
    environment = {"LD_PRELOAD": ":".join(preload), "LC_ALL": "C"}
    if loader.startswith("/nix/store/"):  # no folder there holds all of manylinux: nix/lib.nix says which ones do
        environment["LD_LIBRARY_PATH"] = os.environ.get("LD_LIBRARY_PATH", "")
    command = [loader, "--list", executable]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise _unsupported(executable, f"the loader {loader} cannot list it: {result.stderr.strip()[-300:]}")
    lines = result.stdout.splitlines()
    missing = [match[1] for line in lines if (match := _MISSING.match(line))]
    if missing:
        raise _unsupported(executable, f"needs {', '.join(sorted(set(missing)))}, which the loader does not find")
    return [(match[1], match[2]) for line in lines if (match := _FOUND.match(line))]


def loader_of(executable: str) -> str:
    """The dynamic loader that an ELF file names (its PT_INTERP).

    Raises `HermeticError` (environment/unsupported-interpreter) if it is no 64-bit ELF file, is static, or names a
    loader that is not glibc's.
    """
    with open(executable, "rb") as stream:
        head = stream.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise _unsupported(executable, "is no 64-bit ELF program")
        offset, size, count = struct.unpack_from("<32xQ14xHH", head)
        stream.seek(offset)
        table = stream.read(size * count)
        for start in range(0, len(table), size):
            kind, at, length = struct.unpack_from("<I4xQ16xQ", table, start)
            if kind == _PT_INTERP:
                stream.seek(at)
                loader = stream.read(length).rstrip(b"\0").decode()
                if "musl" in loader:
                    raise _unsupported(executable, f"stands on musl ({loader}), and manylinux wheels need glibc")
                return loader
    raise _unsupported(executable, "is statically linked and cannot load extension modules")


def _unsupported(executable: str, problem: str) -> HermeticError:
    message = f"the interpreter {executable} {problem}"
    hint = "use a CPython of the distribution, of pyenv or of uv (uv python install 3.12)"
    return HermeticError(Domain.ENVIRONMENT, "unsupported-interpreter", message, hint=hint)
