"""Python as a shared library, which the stubs of Triton's python backend are linked with and stages do without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox.environments import EnvironmentMounts, Identity
from hermetic.sandbox.plan import Mount

__all__ = ["FOLDER", "find_libpython", "with_libpython"]

#: Where it is mounted if the environment's own libraries lack it; `triton_server.py` looks there last.
FOLDER = "/build/env/libpython"
_SYSTEM = "/build/env/system"


def with_libpython(mounts: EnvironmentMounts, identity: Identity) -> EnvironmentMounts:
    """`mounts` with the library of the environment's interpreter.

    An interpreter that is linked with its library brings it along; Debian's and uv's are not. Raises `HermeticError`
    (environment/no-libpython) where this machine has none of that version.
    """
    if identity.parts is None:
        return mounts
    interpreter = identity.parts.interpreter
    name = f"libpython{interpreter.minor}.so.1.0"
    if any(mount.target == _SYSTEM and os.path.exists(f"{mount.source}/{name}") for mount in mounts.mounts):
        return mounts
    path = find_libpython(interpreter.executable, name)
    if path:
        return replace(mounts, mounts=(*mounts.mounts, Mount(path, f"{FOLDER}/{name}")))
    message = f"{name} is not there, and Triton's python backend needs it beside {interpreter.executable}"
    hint = (
        f"apt-get install libpython{interpreter.minor}, or use a Python of uv (uv python install {interpreter.minor})"
    )
    raise HermeticError(Domain.ENVIRONMENT, "no-libpython", message, hint=hint)


def find_libpython(executable: str, name: str) -> str:
    """The path of the library `name` of the interpreter `executable`, or ""."""
    found = (os.path.realpath(f"{folder}/{name}") for folder in _folders(executable))
    return next(filter(os.path.isfile, found), "")


def _folders(executable: str) -> Iterator[str]:
    """Beside the interpreter, then where distributions have it."""
    yield f"{os.path.dirname(os.path.dirname(executable))}/lib"
    machine = os.uname().machine
    yield from (
        f"/usr/lib/{machine}-linux-gnu",
        f"/lib/{machine}-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    )
