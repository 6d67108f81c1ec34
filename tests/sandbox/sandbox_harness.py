"""What the sandbox's tests share: how to start the driver, as whom, and how to look for what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from hermetic.sandbox.environments import EnvironmentMounts

ORDINARY = 65534
T = TypeVar("T")


@dataclass
class Driver:
    """Starts `driver.py` as one user. `uid` None is the user who runs the tests."""

    uid: int | None
    python: str
    code: Path
    scratch: Path

    def order(self, **order: object) -> str:
        return json.dumps({"scratch": str(self.scratch), **order})

    def start(self, *, inherit: tuple[int, ...] = (), variables: Mapping[str, str] | None = None) -> subprocess.Popen:
        identity = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(
            [self.python, str(self.code / "driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.code), **(variables or {})},
            pass_fds=inherit,
            **identity,
        )

    def __call__(
        self, *, inherit: tuple[int, ...] = (), variables: Mapping[str, str] | None = None, **order: object
    ) -> dict:
        with self.start(inherit=inherit, variables=variables) as process:
            said, _ = process.communicate(self.order(**order))
        assert process.returncode == 0, said
        return json.loads(said)[-1]

    def python_stage(self, mounts: EnvironmentMounts, program: str, **order: object) -> dict:
        return self(**python_order(mounts, program), **order)


def python_order(mounts: EnvironmentMounts, program: str) -> dict[str, object]:
    return {
        "argv": list(mounts.argv("main.py")),
        "program": {"main.py": program},
        "mounts": [(mount.source, mount.target) for mount in mounts.mounts],
        "symlinks": dict(mounts.symlinks),
        "environment": dict(mounts.variables),
    }


def python_of_everybody() -> str:
    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        probe = [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(probe, user=ORDINARY, group=ORDINARY, extra_groups=[], check=False).returncode == 0:
                return candidate
        except OSError:
            continue
    pytest.skip("needs an interpreter that an ordinary user can run")


def living(marker: str) -> list[int]:
    """Processes of this machine with `marker` in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in line:
            found.append(int(name))
    return found


def wait_for(look: Callable[[], T | None]) -> T:
    """What `look` returns once it is not None; gives up with the test's own time limit."""
    while True:
        if (found := look()) is not None:
            return found
        os.sched_yield()
