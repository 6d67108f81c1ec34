"""Triton's stubs find Python's library whoever built the interpreter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.triton import server_environment
from hermetic.recipe import Memo
from hermetic.sandbox.environments import EnvironmentMounts, Identity, identify
from hermetic.sandbox.plan import Mount
from hermetic.serve import launch_libpython
from hermetic.serve.launch_libpython import with_libpython


@dataclass(frozen=True)
class Case:
    identity: Identity
    mounts: EnvironmentMounts
    system: Path
    beside: Path
    name: str


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """An interpreter in a folder of its own, with libraries that a test makes, on a machine that has no others."""
    found = identify(server_environment(), Memo(str(tmp_path / "memo")))
    assert found.parts is not None
    interpreter = replace(found.parts.interpreter, executable=str(tmp_path / "python" / "bin" / "python3"))
    identity = Identity(found.value, replace(found.parts, interpreter=interpreter))
    system = tmp_path / "system"
    for folder in (system, tmp_path / "python" / "lib"):
        folder.mkdir(parents=True)
    first = launch_libpython._folders

    def only_the_first(executable: str) -> Any:
        return iter([next(first(executable))])

    monkeypatch.setattr(launch_libpython, "_folders", only_the_first)
    mounts = EnvironmentMounts((Mount(str(system), "/build/env/system"),))
    return Case(identity, mounts, system, tmp_path / "python" / "lib", f"libpython{interpreter.minor}.so.1.0")


def test_what_the_environment_brings_is_enough(case: Case) -> None:
    (case.system / case.name).touch()
    assert with_libpython(case.mounts, case.identity) == case.mounts


def test_the_interpreter_s_own(case: Case) -> None:
    (case.beside / case.name).touch()
    *_, last = with_libpython(case.mounts, case.identity).mounts
    assert last == Mount(str(case.beside / case.name), f"/build/env/libpython/{case.name}")


def test_none(case: Case) -> None:
    with pytest.raises(HermeticError) as caught:
        with_libpython(case.mounts, case.identity)
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "no-libpython")
