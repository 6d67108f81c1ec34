"""A Triton of this machine as an environment: its own folders and the system's, at the places where they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import abi
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.plan import Mount, is_within
from hermetic.serve.launch_command import Binary

__all__ = ["given"]

#: What programs of a distribution are made of; /opt and /app are where NVIDIA's image has Triton and its models.
_SYSTEM: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/app", "/etc/ld.so.cache", "/etc/alternatives",
)  # fmt: skip
#: Search paths of the one who starts it; their folders are shown too.
_VARIABLES: Final = ("LD_LIBRARY_PATH", "PYTHONPATH")


def given(program: str, backends: str, environ: Mapping[str, str]) -> tuple[EnvironmentMounts, Binary]:
    """The tritonserver at the path `program`, with the folder `backends` or else its own.

    Raises `HermeticError`: usage/no-triton, usage/no-backends.
    """
    server = os.path.abspath(program)
    if not os.access(server, os.X_OK) or os.path.isdir(server):
        raise HermeticError(
            Domain.USAGE, "no-triton", f"{program} is no program", hint="--triton /path/to/tritonserver"
        )
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(server)))
    folder = os.path.abspath(backends or os.path.join(prefix, "backends"))
    if not os.path.isdir(folder):
        raise HermeticError(Domain.USAGE, "no-backends", f"{folder} is no folder", hint="--backends DIR")
    mpirun = shutil.which("mpirun", path=environ.get("PATH", os.defpath)) or "mpirun"
    shown = [prefix, os.path.dirname(server), folder, os.path.dirname(mpirun)]
    searched = {name: environ[name] for name in _VARIABLES if environ.get(name)}
    searched["LD_LIBRARY_PATH"] = ":".join(filter(None, (f"{prefix}/lib", searched.get("LD_LIBRARY_PATH"))))
    shown += [path for text in searched.values() for path in text.split(":") if os.path.isabs(path)]
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}
    found = EnvironmentMounts(
        tuple(Mount(path, _inside(path)) for path in _apart(shown, links)),
        symlinks=links,
        variables={name: ":".join(map(_inside, text.split(":"))) for name, text in searched.items()},
        python=("python3", "-B"),
    )
    return found, Binary(*map(_inside, (server, mpirun, folder)))


def _inside(path: str) -> str:
    """Where `path` is in the sandbox, whose folders for temporary files are its own."""
    return f"{abi.ENV}/given{path}" if any(is_within(path, place) for place in abi.SYMLINKS) else path


def _apart(shown: list[str], links: Mapping[str, str]) -> Iterator[str]:
    """Every folder that is there once: none inside another, none where there is a link."""
    known = list(links)
    for path in sorted({*_SYSTEM, *map(os.path.normpath, filter(None, shown))}, key=len):
        if os.path.exists(path) and not any(is_within(path, other) for other in known):
            known.append(path)
            yield path
