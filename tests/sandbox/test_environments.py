"""`PythonEnv`: what identifies it, and that the trees it becomes are the same wherever they are made."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_harness import Driver

from hermetic.digest import TreeDigest
from hermetic.errors import Domain, HermeticError
from hermetic.recipe.environments import Environment, PythonEnv
from hermetic.recipe.memo import Memo
from hermetic.sandbox import environments, interpreter, libraries
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.store import Store

IDNA = "idna==3.10 --hash=sha256:946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
SIX = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"


def environment(folder: Path, text: str = "", **more: str) -> PythonEnv:
    lock = folder / "wheels.lock"
    lock.write_text(text)
    return PythonEnv(lock, **more)


def materialise(wanted: Environment, store: Store) -> EnvironmentMounts:
    identity = environments.identify(wanted, Memo())
    with store.begin() as run:
        return asyncio.run(environments.materialise(wanted, identity, run))


def digests(store: Store, mounts: EnvironmentMounts) -> dict[str, TreeDigest]:
    found = [store.find(mount.source) for mount in mounts.mounts]
    return {each.name: each.tree for each in found}


def test_two_stores_get_equal_trees(tmp_path: Path) -> None:
    wanted = environment(tmp_path, f"{IDNA}\n{SIX}\n")
    made = []
    for name in ("one", "another-store-with-a-longer-name"):
        store = Store.open(str(tmp_path / name), create=True)
        made.append(digests(store, materialise(wanted, store)))
    assert made[0] == made[1]
    assert set(made[0]) == {"python", "system-libraries", "wheels"}


def test_the_second_time_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = environment(tmp_path)
    store = Store.open(str(tmp_path / "store"), create=True)
    first = materialise(wanted, store)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("hermetic.sandbox.python._make", never)
    assert materialise(wanted, store) == first


def test_identity_is_of_content(tmp_path: Path) -> None:
    memo = Memo()
    value = environments.identify(environment(tmp_path, IDNA), memo).value
    assert set(value) == {"kind", "version", "interpreter", "system", "wheels"}
    assert value == environments.identify(environment(tmp_path, f"# a comment\n{IDNA}\n"), memo).value
    assert value != environments.identify(environment(tmp_path, SIX), memo).value


def test_a_changed_library_is_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = environment(tmp_path)
    before = environments.identify(wanted, Memo()).value
    real = libraries.resolve
    other = tmp_path / "libz.so.1"
    other.write_bytes(b"another")
    monkeypatch.setattr(libraries, "resolve", lambda found: real(found) | {"libz.so.1": str(other)})
    after = environments.identify(wanted, Memo()).value
    assert {name for name in before if before[name] != after[name]} == {"system"}


def test_what_it_reads_is_observed(tmp_path: Path) -> None:
    memo = Memo()
    environments.identify(environment(tmp_path), memo)
    found = interpreter.describe("")
    assert {found.executable, f"{found.stdlib}/os.py", found.stdlib, "/etc/ld.so.cache"} <= {
        path for path, _ in memo.observed
    }


def test_a_bad_lock_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        environments.identify(environment(tmp_path, "# one\n-e .\n"), Memo())
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "lock-editable")
    assert "wheels.lock:2:" in caught.value.message


def test_a_wrong_hash_is_told_as_that(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    with pytest.raises(HermeticError) as caught:
        materialise(environment(tmp_path, f"{SIX[:-4]}0000"), store)
    assert (caught.value.domain, caught.value.reason) == (Domain.HASH, "wheel-mismatch")
    assert not any(name.endswith("-wheels") for name in os.listdir(store.layout.folder("store")))
    assert os.listdir(store.layout.folder("tmp")) == []


MODULES = "asyncio bz2 ctypes decimal hashlib json lzma multiprocessing socket sqlite3 ssl unittest uuid zlib zoneinfo"


def test_the_standard_library_works(driver: Driver, bare_python: EnvironmentMounts) -> None:
    program = f"import {', '.join(MODULES.split())}; print(ssl.OPENSSL_VERSION, sqlite3.sqlite_version)"
    done = driver.python_stage(bare_python, program)
    assert done["exit"]["status"] == 0, done["log"]


def test_modules_come_compiled(driver: Driver, bare_python: EnvironmentMounts) -> None:
    program = "import os, json, unittest.mock as m; print(os.path.exists(json.__spec__.cached), m.__spec__.cached)"
    assert driver.python_stage(bare_python, program)["log"].startswith("True /build/env/python/lib/")


def test_the_interpreters_own_packages_are_not_there(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, "import pip")
    assert "No module named 'pip'" in done["log"]


def test_nothing_of_the_host_is_loaded(driver: Driver, bare_python: EnvironmentMounts) -> None:
    program = "import ssl, sqlite3\nfor line in open('/proc/self/maps'): print(line.split()[-1])"
    done = driver.python_stage(bare_python, program)
    mapped = {line for line in done["log"].splitlines() if line.startswith("/")}
    assert mapped
    assert all(path.startswith("/build/env/") for path in mapped), mapped


@pytest.mark.parametrize("other", ["/usr/bin/python3"])
def test_another_interpreter(other: str, driver: Driver, place: Path) -> None:
    probe = [other, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if not os.path.exists(other) or subprocess.run(probe, check=False).returncode != 0:
        pytest.skip(f"needs {other} of version 3.11 or newer")
    lock = place / "other.lock"
    lock.touch()
    store = Store.open(str(place / "store"), create=True)
    mounts = materialise(PythonEnv(lock, python=other), store)
    done = driver.python_stage(mounts, "import ssl, sys; print(sys.prefix)")
    assert done["log"] == "/build/env/python\n"


def test_no_such_interpreter() -> None:
    with pytest.raises(HermeticError) as caught:
        interpreter.describe("9.9")
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "no-interpreter")


@pytest.mark.parametrize(
    "facts",
    [
        {"implementation": "pypy"},
        {"version": "3.10.2"},
        {"version": "3.14.0"},
        {"free_threaded": "yes"},
        {"libc": " "},
        {"stdlib": "/nowhere"},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_interpreters_that_are_refused(facts: dict[str, str]) -> None:
    with pytest.raises(HermeticError) as caught:
        interpreter._check(interpreter._running() | facts)
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "unsupported-interpreter")


def test_programs_that_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n" * 20)
    with pytest.raises(HermeticError) as caught:
        libraries.loader_of(str(script))
    assert caught.value.reason == "unsupported-interpreter"


def test_a_musl_interpreter_is_refused(tmp_path: Path) -> None:
    real = Path(os.path.realpath(sys.executable)).read_bytes()
    loader = libraries.loader_of(os.path.realpath(sys.executable)).encode()
    musl = b"/lib/ld-musl-x86_64.so.1"
    fake = tmp_path / "python"
    fake.write_bytes(real.replace(loader, musl.ljust(len(loader), b"\0")[: len(loader)], 1))
    with pytest.raises(HermeticError) as caught:
        libraries.loader_of(str(fake))
    assert "musl" in caught.value.message


def test_a_program_that_is_no_python(bare_python: EnvironmentMounts) -> None:
    assert bare_python.argv("run") == ("/build/program/run",)
    assert bare_python.argv("run.py")[1:] == ("-P", "-B", "/build/program/run.py")
    with pytest.raises(HermeticError) as caught:
        EnvironmentMounts(()).argv("run.py")
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "no-interpreter")
