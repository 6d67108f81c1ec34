"""A store of the test's own, trees from plain values, and processes that are killed, frozen or nobody."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from hermetic.digest import BlobDigest, Key, ResolvedKey, TreeDigest, TreeEntry, hash_bytes, tree_digest
from hermetic.store import Realisation, Run, Store, remove_tree

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
TEAM = 64111


@dataclass(frozen=True)
class Link:
    """A symlink in a tree that `fill` makes."""

    target: str


@dataclass(frozen=True)
class Program:
    """An executable file."""

    data: bytes


def fill(folder: Path, tree: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in tree.items():
        path = folder / name
        match value:
            case dict():
                fill(path, value)
            case Link():
                path.symlink_to(value.target)
            case Program():
                path.write_bytes(value.data)
                path.chmod(0o755)
            case _:
                path.write_bytes(value)
    return folder


def digest_of(folder: Path) -> TreeDigest:
    """The digest of a folder by the definition, with nothing of the store's own code."""
    return tree_digest(entry_of(path) for path in folder.iterdir())


def entry_of(path: Path) -> TreeEntry:
    name = os.fsencode(path.name)
    if path.is_symlink():
        return TreeEntry(name, "symlink", target=os.fsencode(os.readlink(path)))
    if path.is_dir():
        return TreeEntry(name, "dir", digest=digest_of(path))
    data, mode = path.read_bytes(), path.stat().st_mode
    return TreeEntry(name, "file", bool(mode & 0o100), len(data), BlobDigest(hash_bytes(data).hex))


def key_of(name: str) -> Key:
    return Key(hash_bytes(name.encode()).hex)


def resolved_of(name: str) -> ResolvedKey:
    return ResolvedKey(hash_bytes(b"resolved " + name.encode()).hex)


ENGINE = {
    "config.json": b"{}",
    "copy.json": b"{}",
    "run": Program(b"#!/bin/sh\n"),
    "weights": {"rank0.engine": b"ftrt" + bytes(5 << 20), "rank1.engine": b"ftrt" + b"\1" * (5 << 20)},
    "latest": Link("weights/rank0.engine"),
}


class Bench:
    """One store and the shortest way to put something into it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def put(
        self, run: Run, tree: Mapping[str, Any] | Callable[[Path], object], name: str = "engine", **more: Any
    ) -> Realisation:
        """Make `tree` in a workspace and ingest it as the output of the key that stands for `name`."""
        with run.workspace() as workspace, self.store.lock(key_of(name)):
            out = workspace.path / "out"
            if callable(tree):
                out.mkdir()
                tree(out)
            else:
                fill(out, tree)
            more.setdefault("preimage", {"name": name})
            more.setdefault("resolved", None)
            return run.ingest(out, key=key_of(name), name=name, **more)

    def make(
        self, tree: Mapping[str, Any] | Callable[[Path], object], name: str = "engine", **more: Any
    ) -> Realisation:
        """The same in a run of its own."""
        with self.store.begin() as run:
            return self.put(run, tree, name, **more)

    def path(self, record: Realisation) -> Path:
        return record.path(self.store)


@pytest.fixture(autouse=True)
def _removed(tmp_path: Path) -> Iterator[None]:
    """Pytest cannot remove a 0555 folder as an ordinary user, and stops the next session over it."""
    yield
    for path in tmp_path.iterdir():
        remove_tree(str(path))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Store.open(tmp_path / "store"))


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", {"recipe.py": b"x", "data": {"a": b"{}"}})


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A folder that every user can reach, owned by nobody when we are root, removed with all that is in it."""
    path = tempfile.mkdtemp(prefix="hermetic-store-")
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    yield Path(path)
    remove_tree(path)


class Script(Protocol):
    def __call__(
        self,
        body: str,
        *arguments: object,
        nobody: bool = False,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]: ...


# Everything is imported before the uid changes: the interpreter may lie where only root can read.
_PRELUDE = """
import concurrent.futures.thread, ctypes, importlib, os, pkgutil, sys
from pathlib import Path
import filelock, rfc8785
import hermetic.store
for module in pkgutil.iter_modules(hermetic.store.__path__):
    importlib.import_module("hermetic.store." + module.name)
sys.path.insert(0, {tests!r})
from store_kit import *
rfc8785.dumps({{"warm": "the codecs"}})
if {uid} and os.geteuid() == 0:
    os.setgroups({groups}); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
arguments = sys.argv[1:]
"""


@pytest.fixture
def script() -> Script:
    """Run Python in a process of its own, as an ordinary user with ``nobody=True``."""

    def run(
        body: str, *arguments: object, nobody: bool = False, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        process = start_script(body, *arguments, nobody=nobody, env=env)
        out, err = process.communicate(timeout=60)
        if check:
            assert process.returncode == 0, err
        return subprocess.CompletedProcess(body, process.returncode, out, err)

    return run


def start_script(
    body: str, *arguments: object, nobody: bool = False, env: Mapping[str, str] | None = None, member: int = 0
) -> subprocess.Popen[str]:
    """`member` is the uid of somebody who is in the group `TEAM` besides their own."""
    uid, groups = (member, [TEAM]) if member else (NOBODY if nobody else 0, [])
    prelude = _PRELUDE.format(tests=str(Path(__file__).parent), uid=uid, groups=groups)
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(body), *map(str, arguments)],
        env=environment() | dict(env or {}),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def frozen(root: Path, point: str, body: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `body` and stands still at `point` until the block ends; then it must finish well."""
    fifo = root.parent / f"fifo-{os.urandom(4).hex()}"
    os.mkfifo(fifo)
    process = start_script(body, root, *arguments, env={"HERMETIC_TEST_SYNC": f"{point}:{fifo}"})
    try:
        assert _heard(fifo, process) == point.partition("#")[0] + "\n", process.communicate()
        yield process
        fifo.write_text("")
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def _heard(fifo: Path, process: subprocess.Popen[str]) -> str:
    """What `process` writes into `fifo`; nothing if it ends without."""
    reader, ended = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(process.pid)
    try:
        if reader not in select.select([reader, ended], [], [])[0]:
            return ""
        os.set_blocking(reader, True)
        with open(reader, encoding="utf-8", closefd=False) as file:
            return file.read()
    finally:
        os.close(reader)
        os.close(ended)


def collector_is_locked_out(root: Path) -> bool:
    """Whether somebody holds the gc lock, so that a collection would wait."""
    with open(root / "locks" / "gc", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def environment() -> dict[str, str]:
    """Ours, in which `hermetic` is the one of this checkout."""
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    }


def names_below(folder: Path) -> list[str]:
    """Everything below a folder, relative, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
