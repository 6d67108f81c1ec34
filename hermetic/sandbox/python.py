"""`PythonEnv`: an interpreter, system libraries and wheels, store paths of their own; nothing of ``/usr`` is bound."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hermetic import canonical
from hermetic.digest import Key, TreeDigest, derive
from hermetic.fetch import wheels
from hermetic.fetch.wheel_lock import WheelLock, parse_lock
from hermetic.recipe.environments import PythonEnv
from hermetic.recipe.memo import Memo
from hermetic.sandbox import abi, interpreter, libraries
from hermetic.sandbox.bytecode import compile_tree
from hermetic.sandbox.interpreter import Interpreter
from hermetic.sandbox.plan import Mount
from hermetic.sandbox.together import together
from hermetic.sandbox.trees import Assembly

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store import Realisation, Run, Store

__all__ = [
    "SYMLINKS",
    "VARIABLES",
    "Parts",
    "Progress",
    "Tree",
    "assemblies",
    "command",
    "inspect",
    "materialise",
    "planned",
    "realise",
    "symlinks",
    "value",
]

PYTHON: Final = f"{abi.ENV}/python"
SYSTEM: Final = f"{abi.ENV}/system"
WHEELS: Final = f"{abi.ENV}/wheels"
SYMLINKS: Final[Mapping[str, str]] = MappingProxyType(
    {place: "build/env/system" if place.count("/") == 1 else "../build/env/system"
     for place in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")}
)  # fmt: skip
VARIABLES: Final[Mapping[str, str]] = MappingProxyType({"PYTHONPATH": WHEELS})

_LOCALES: Final = "/usr/lib/locale"  # compiled into glibc; Nix's has its own folder there
_LOCALE: Final = "C.utf8"

_CONTEXT: Final = "hermetic environment v1"
_LAYOUT: Final = 1  # of the trees below; another number is another key for them, though not for stages

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Parts:
    """What an interpreter, its libraries and a lock are made of, with the digests that identify each."""

    interpreter: Interpreter
    python: Assembly
    system: Assembly
    lock: WheelLock
    python_digest: TreeDigest
    system_digest: TreeDigest


def inspect(environment: PythonEnv, memo: Memo) -> Parts:
    """Look at the interpreter, its libraries and the lock; reads only files that `memo` does not know."""
    memo.observe("/etc/ld.so.cache")
    lock = parse_lock(environment.text, environment.lock)
    found = interpreter.describe(environment.python)
    for folder in interpreter.stdlib_folders(found):
        memo.observe(folder)
    python, system = assemblies(found)
    return Parts(found, python, system, lock, python.digest(memo), system.digest(memo))


def value(parts: Parts) -> dict[str, Value]:
    """The environment's part of a stage's preimage."""
    return {
        "kind": "python",
        "version": parts.interpreter.version,
        "interpreter": parts.python_digest.hex,
        "system": parts.system_digest.hex,
        "wheels": parts.lock.digest.hex,
    }


def command(parts: Parts) -> tuple[str, ...]:
    """What starts a program: safe path, so that a folder it stands in is not imported from; no bytecode written."""
    return (f"{PYTHON}/bin/python{parts.interpreter.minor}", "-P", "-B")


def symlinks(parts: Parts) -> Mapping[str, str]:
    """Links of the sandbox's root by place, so that loader and libraries are where programs were told to look.

    nixpkgs' interpreter names a loader in a folder of Nix's store, which is also where that loader looks by default.
    """
    folder = os.path.dirname(libraries.loader_of(parts.interpreter.executable))
    return SYMLINKS if folder in SYMLINKS else {**SYMLINKS, folder: SYSTEM}


async def materialise(
    parts: Parts, run: Run, store: Store, progress: Progress | None, indexes: Mapping[str, str]
) -> tuple[Mount, ...]:
    """Make the three trees exist, side by side; returns their mounts."""
    tell = progress or (lambda _what, _done, _total: None)
    return tuple(await together(realise(tree, run, store) for tree in _trees(parts, tell, indexes)))


def planned(parts: Parts, store: Store) -> tuple[Mount, ...]:
    """The mounts that `materialise` will give, whether or not anything is there yet."""
    trees = _trees(parts, lambda _what, _done, _total: None, {})
    return tuple(Mount(str(store.path(tree.key, tree.name)), tree.place) for tree in trees)


@dataclass(frozen=True)
class Tree:
    """A part of an environment that is a store path of its own, seen by stages at `place`; `make` fills ``out``."""

    name: str
    place: str
    preimage: dict[str, Value]
    make: Callable[[str], Awaitable[None]]

    @property
    def key(self) -> Key:
        return derive(Key, _CONTEXT, canonical.encode(self.preimage))


def _trees(parts: Parts, tell: Progress, indexes: Mapping[str, str]) -> tuple[Tree, ...]:
    return (
        Tree("python", PYTHON, _preimage("python", parts), functools.partial(_make_python, parts, tell)),
        Tree("system-libraries", SYSTEM, _preimage("system", parts), functools.partial(_make_system, parts)),
        Tree("wheels", WHEELS, _preimage("wheels", parts), functools.partial(_make_wheels, parts, tell, indexes)),
    )


async def realise(tree: Tree, run: Run, store: Store) -> Mount:
    """Make the tree exist, unless it does. Locks its key."""
    run.lease([tree.key])
    found = store.realisation(tree.key)
    if found is None:
        lock = store.lock(tree.key)
        while not lock.try_acquire():  # noqa: ASYNC110  # another process holds it
            await asyncio.sleep(0.05)
        try:
            found = store.realisation(tree.key) or await _make(tree, run)
        finally:
            lock.release()
    return Mount(str(found.path(store)), tree.place)


async def _make(tree: Tree, run: Run) -> Realisation:
    with run.workspace() as place:
        await tree.make(str(place.path))
        return await asyncio.to_thread(
            run.ingest,
            place.path / "out",
            key=tree.key,
            name=tree.name,
            preimage=tree.preimage,
            resolved=None,
            verbatim=True,  # a wheel may speak of /nix/store; of this store nothing may
            forbid=(os.fsencode(run.store.root),),
        )


def _preimage(part: str, parts: Parts) -> dict[str, Value]:
    """What a tree is made from. Wheels depend on the interpreter by their bytecode and on glibc by their tags."""
    common: dict[str, Value] = {"environment": part, "layout": _LAYOUT}
    if part == "system":
        return common | {"system": parts.system_digest.hex}
    common |= {"interpreter": parts.python_digest.hex, "version": parts.interpreter.version}
    if part == "wheels":
        machine = f"{os.uname().machine}-linux"
        common |= {"wheels": parts.lock.digest.hex, "libc": parts.interpreter.libc, "machine": machine}
    return common


async def _make_python(parts: Parts, tell: Progress, scratch: str) -> None:
    target = f"{scratch}/out"
    await asyncio.to_thread(_assemble, parts.python, target)
    tell("python", 0, None)
    inside = parts.interpreter.inside
    await compile_tree(f"{target}/{inside}", f"{PYTHON}/{inside}", parts.interpreter.executable)


async def _make_system(parts: Parts, scratch: str) -> None:
    await asyncio.to_thread(_assemble, parts.system, f"{scratch}/out")


async def _make_wheels(parts: Parts, tell: Progress, indexes: Mapping[str, str], scratch: str) -> None:
    target = f"{scratch}/out"
    await wheels.install(
        parts.lock,
        target,
        python=parts.interpreter.executable,
        scratch=f"{scratch}/scratch",
        shebang=f"{PYTHON}/bin/python{parts.interpreter.minor}",
        indexes=indexes,
        progress=lambda done: tell("wheels", done, None),
    )
    await compile_tree(target, WHEELS, parts.interpreter.executable)


def _assemble(tree: Assembly, target: str) -> None:
    os.mkdir(target)
    tree.build(target)


def assemblies(found: Interpreter) -> tuple[Assembly, Assembly]:
    """The trees that are made of `found`: the interpreter with its standard library, and the system's libraries."""
    return _python_tree(found), _system_tree(found)


def _python_tree(found: Interpreter) -> Assembly:
    name = f"python{found.minor}"
    tree = Assembly(executable=frozenset({f"bin/{name}"}))
    tree.files[f"bin/{name}"] = found.executable
    tree.links |= {"bin/python3": name, "bin/python": name}
    for inside, path in interpreter.stdlib_files(found):
        tree.files[f"{found.inside}/{inside}"] = path
    return tree


def _walk(folder: str, below: str) -> Iterator[tuple[str, str]]:
    for place, _, names in os.walk(f"{folder}/{below}"):
        for name in names:
            path = f"{place}/{name}"
            yield os.path.relpath(path, folder), path


def _system_tree(found: Interpreter) -> Assembly:
    """One flat folder, which is all of ``/lib`` and ``/usr/lib``; the link to itself is Debian's multiarch folder.

    The C.UTF-8 locale is data of its own; without it ``std::locale("")`` throws.
    """
    files = libraries.resolve(found)
    folder, loader = os.path.split(libraries.loader_of(found.executable))
    locales = _LOCALES if folder in SYMLINKS else f"{folder}/locale"
    files |= {f"locale/{name}": path for name, path in _walk(locales, _LOCALE)}
    links = {f"{os.uname().machine}-linux-gnu": "."}
    return Assembly(files=files, links=links, executable=frozenset({loader}))
