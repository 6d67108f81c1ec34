"""One GPU, one user: between threads of a process, processes, and after kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import gpu_lease
from hermetic.testing.gpu import H200

HOLD = """
import sys
from hermetic.sandbox.gpu_lease import lease
from hermetic.testing.gpu import H200
held = lease([H200(0), H200(1)], int(sys.argv[1]))
print("none" if held is None else " ".join(str(device.index) for device in held.devices), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv(gpu_lease.VARIABLE, str(tmp_path / "locks"))
    return tmp_path / "locks"


class Other:
    """A process that leases `count` of two GPUs and holds on."""

    def __init__(self, count: int, repository: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(repository)},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_two_processes_get_one_each_and_a_third_none(repository) -> None:
    with Other(1, repository) as first, Other(1, repository) as second, Other(1, repository) as third:
        assert sorted([first.said, second.said]) == ["0", "1"]
        assert third.said == "none"


def test_kill_9_frees_it(repository) -> None:
    with Other(2, repository) as other:
        assert other.said == "0 1"
        assert gpu_lease.lease([H200(0)], 1) is None
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
        ours = gpu_lease.lease([H200(0), H200(1)], 2)
        assert ours is not None
        ours.release()


def test_who_cannot_have_all_holds_none(repository) -> None:
    with Other(1, repository) as other:
        assert gpu_lease.lease([H200(0), H200(1)], 2) is None
        assert other.said == "0"
        ours = gpu_lease.lease([H200(0), H200(1)], 1)
        assert ours is not None
        assert [device.index for device in ours.devices] == [1]
        ours.release()


def test_the_same_process_gets_it_only_once() -> None:
    first = gpu_lease.lease([H200(0)], 1)
    assert first is not None
    assert gpu_lease.lease([H200(0)], 1) is None
    first.release()
    again = gpu_lease.lease([H200(0)], 1)
    assert again is not None
    again.release()


def test_every_user_can_make_locks_and_remove_nobody_else_s(locks) -> None:
    lease = gpu_lease.lease([H200(0)], 1)
    assert lease is not None
    assert locks.stat().st_mode & 0o7777 == 0o1777
    (file,) = locks.iterdir()
    assert file.stat().st_mode & 0o777 == 0o666
    lease.release()


def test_no_folder_for_locks(monkeypatch) -> None:
    monkeypatch.setenv(gpu_lease.VARIABLE, "/proc/nowhere")
    with pytest.raises(HermeticError) as caught:
        gpu_lease.folder()
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "gpu-locks")
