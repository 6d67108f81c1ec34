"""Without bubblewrap there is no build, and one command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import seccomp, tools


def fake(folder: Path, says: str) -> str:
    tool = folder / "bwrap"
    tool.write_text(f"#!/bin/sh\n{says}\n")
    tool.chmod(0o755)
    return str(folder)


def test_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: None)
    tools._checked.cache_clear()
    with pytest.raises(HermeticError) as caught:
        tools.bubblewrap()
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "no-sandbox")
    assert caught.value.hint == "apt-get install bubblewrap"


@pytest.mark.parametrize("says", ["echo bubblewrap 0.6.1", "exit 1"])
def test_too_old_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setenv("PATH", fake(tmp_path, says))
    with pytest.raises(HermeticError) as caught:
        tools.bubblewrap()
    assert caught.value.reason == "no-sandbox"


@pytest.mark.parametrize(
    "said",
    [
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged ...",
        "bwrap: Creating new namespace failed: Resource temporarily unavailable",
        "bwrap: setting up uid map: Permission denied",
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
    ],
)
def test_what_a_machine_forbids_has_a_remedy(said: str) -> None:
    error = tools.explain(said)
    assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "no-sandbox")
    assert error.hint


def test_anything_else_is_told_as_it_is() -> None:
    error = tools.explain("bwrap: Can't find source path /x: No such file or directory")
    assert error.reason == "sandbox-failed"
    assert "/x" in error.message


PROBE = """
from hermetic.errors import HermeticError
from hermetic.sandbox import tools
try:
    tools.available()
except HermeticError as error:
    print(error.reason, "|", error.hint)
"""


def said_by(code: Path, *wrapper: str) -> str:
    command = [*wrapper, sys.executable, "-c", PROBE]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(code)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_root_without_the_right_to_mount(code: Path) -> None:
    said = said_by(code, "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert said.startswith("no-sandbox | start the container with --privileged")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_user_namespaces_forbidden(code: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    said = said_by(code, "unshare", "-Ur", "sh", "-c", forbid, "sh")
    assert said == "no-sandbox | sysctl -w user.max_user_namespaces=15000"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_bubblewrap_where_only_root_can_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tools, "bubblewrap", lambda: f"{fake(tmp_path, 'exit 0')}/bwrap")
    with pytest.raises(HermeticError) as caught:
        tools.available()
    assert caught.value.reason == "no-sandbox"
    assert "another user" in caught.value.message


def test_here() -> None:
    assert tools.available().endswith("bwrap")


def test_the_filter_is_whole_instructions() -> None:
    for machine in ("x86_64", "aarch64"):
        assert len(seccomp.program(machine)) % 8 == 0


def test_a_machine_that_the_filter_does_not_know() -> None:
    with pytest.raises(HermeticError) as caught:
        seccomp.program("riscv64")
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "unsupported-machine")
