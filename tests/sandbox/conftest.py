"""Stages run as root and as an ordinary user, each through a driver in a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_harness import ORDINARY, Driver, python_of_everybody

from hermetic.recipe.environments import PythonEnv
from hermetic.recipe.memo import Memo
from hermetic.sandbox import environments, tools
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.store import Store

HERE = Path(__file__).parent
_SOURCES = HERE.parent.parent / "hermetic"


@pytest.fixture(scope="session", autouse=True)
def _bubblewrap() -> None:
    tools.available()


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder that every user can walk to."""
    folder = Path(tempfile.mkdtemp(prefix="hermetic-sandbox-"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def code(place: Path) -> Path:
    """What the driver imports, where every user can read it."""
    target = place / "code"
    shutil.copytree(_SOURCES / "sandbox", target / "hermetic/sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(_SOURCES / name, target / "hermetic" / name)
    shutil.copy(HERE / "driver.py", target / "driver.py")
    subprocess.run(["chmod", "-R", "a+rX", target], check=True)
    return target


@pytest.fixture(scope="session")
def bare_python(place: Path) -> EnvironmentMounts:
    """A `PythonEnv` without wheels, in a store that every user can read."""
    lock = place / "empty.lock"
    lock.touch()
    environment = PythonEnv(lock)
    store = Store.open(str(place / "store"), create=True)
    identity = environments.identify(environment, Memo())
    with store.begin() as run:
        mounts = asyncio.run(environments.materialise(environment, identity, run))
    subprocess.run(["chmod", "a+rX", place / "store", place / "store/store"], check=True)
    return mounts


@pytest.fixture(scope="session", params=["root", "ordinary user"])
def driver(request: pytest.FixtureRequest, place: Path, code: Path) -> Driver:
    scratch = Path(tempfile.mkdtemp(dir=place))  # a worker of pytest-xdist may come back to a user
    scratch.chmod(0o755)
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("needs root")
        scratch.chmod(0o700)  # nobody but root can walk to the workspaces
        return Driver(None, sys.executable, code, scratch)
    if os.geteuid() != 0:
        return Driver(None, sys.executable, code, scratch)
    os.chown(scratch, ORDINARY, ORDINARY)
    return Driver(ORDINARY, python_of_everybody(), code, scratch)
