"""Memory, processes, shared memory: what a stage gets, and what is said when it wants more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_harness import Driver, python_order

from hermetic.sandbox import cgroup, launch, owner
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.plan import Limits

HOG = """
blocks = []
for _ in range(64):
    blocks.append(bytearray(b"x" * (8 << 20)))
"""

FORKS = """
import os, sys, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except BlockingIOError:
    pass
print(count)
"""


def test_too_much_memory(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, HOG, limits={"memory_mb": 128})["exit"]
    assert done["limited_by"] in {"cgroup", "rlimit"}
    if done["limited_by"] == "cgroup":
        assert done["oom"]
        assert (done["status"], done["signal"]) == (None, 9)
    else:
        assert done["status"] == 1  # MemoryError
        assert not done["oom"]


def test_enough_memory(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, HOG, limits={"memory_mb": 1024})["exit"]
    assert (done["status"], done["oom"]) == (0, False)


def test_too_many_processes(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, FORKS, limits={"processes": 20})
    assert done["exit"]["status"] == 0, done["log"]
    assert int(done["log"]) < 20


def test_no_limit_is_said_as_that(driver: Driver, bare_python: EnvironmentMounts) -> None:
    assert driver.python_stage(bare_python, "")["exit"]["limited_by"] == ""


def test_shared_memory_has_its_size(driver: Driver, bare_python: EnvironmentMounts) -> None:
    program = "open('/dev/shm/x', 'wb').write(b'x' * (3 << 20))"
    done = driver.python_stage(bare_python, program, limits={"shm_mb": 2})
    assert done["exit"]["status"] == 1
    assert "No space left on device" in done["log"]
    assert driver.python_stage(bare_python, program, limits={"shm_mb": 4})["exit"]["status"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a control group of our own")
def test_groups_are_removed(driver: Driver, bare_python: EnvironmentMounts) -> None:
    group = cgroup.make(Limits(memory_mb=100, processes=10))
    if group is None:
        pytest.skip("needs a control group of our own")
    folders = [Path(folder) for folder in group.folders]
    assert all(folder.is_dir() for folder in folders)
    group.close()
    assert not any(folder.exists() for folder in folders)
    order = driver.order(**python_order(bare_python, HOG), limits={"memory_mb": 128, "processes": 50})
    with driver.start() as process:
        process.communicate(order)
    left = [name for folder in folders for name in os.listdir(folder.parent) if f"-{process.pid}-" in name]
    assert left == []


def test_fallback_limits_are_never_above_what_is_granted() -> None:
    for which, (soft, hard) in launch.resource_limits(Limits(memory_mb=10, processes=10), grouped=False):
        granted = launch.resource.getrlimit(which)[1]
        assert granted == -1 or -1 < hard <= granted
        assert hard == -1 or -1 < soft <= hard


def test_a_group_takes_the_place_of_the_fallback() -> None:
    data = launch.resource.RLIMIT_DATA
    assert dict(launch.resource_limits(Limits(memory_mb=10), grouped=False))[data] == (10 << 20, 10 << 20)
    assert dict(launch.resource_limits(Limits(memory_mb=10), grouped=True))[data] != (10 << 20, 10 << 20)


def own_parent() -> cgroup.Parent:
    found = list(cgroup.parents(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text()))
    if not found:
        pytest.skip("needs a control group of our own")
    return found[0]


def test_what_a_killed_driver_left_is_ended_and_removed() -> None:
    parent = own_parent()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    folder = Path(parent.memory) / f"hermetic-{namespace}-{2**22}-1-1"  # no process has so large an id
    folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as left:
        (folder / "cgroup.procs").write_text(str(left.pid))
        cgroup.sweep(parent)
        assert left.wait() == -signal.SIGKILL
    cgroup.sweep(parent)
    assert not folder.exists()


def test_the_scheduler_plans_with_what_its_group_leaves_it() -> None:
    group = cgroup.make(Limits(memory_mb=300))
    if group is None:
        pytest.skip("needs a control group of our own")
    program = "from hermetic.realise.resources import Resources; print(Resources().memory_mb)"
    door = Path(group.memory) / "cgroup.procs"
    try:
        command = ["sh", "-c", f'echo $$ > {door} && exec "$0" -c "$1"', sys.executable, program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        group.close()
    assert done.stdout == "300\n"


def test_others_groups_are_left_alone() -> None:
    """Those of living drivers, of other process namespaces, and of anybody else."""
    parent = own_parent()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    names = [f"hermetic-{namespace}-{owner.name()}-0", f"hermetic-1-{2**22}-1-1", f"hermetic{os.getpid()}"]
    folders = [Path(parent.memory) / name for name in names]
    for folder in folders:
        folder.mkdir()
    try:
        cgroup.sweep(parent)
        assert all(folder.is_dir() for folder in folders)
    finally:
        for folder in folders:
            folder.rmdir()


class TestDelegation:
    """Where a group of version 2 may be made, by folders that stand for the hierarchy."""

    @pytest.fixture
    def hierarchy(self, tmp_path: Path) -> Path:
        self.group(tmp_path, "cpu memory pids")
        return tmp_path

    @staticmethod
    def group(folder: Path, handing_out: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(handing_out)
        (folder / "cgroup.procs").touch()

    @staticmethod
    def parents(hierarchy: Path, mine: str) -> list[str]:
        found = cgroup.parents(f"cgroup2 {hierarchy} cgroup2 rw,nosuid 0 0\n", f"0::{mine}\n")
        return [parent.memory.removeprefix(str(hierarchy)) or "/" for parent in found]

    def test_the_nearest_that_hands_out_both_controllers(self, hierarchy: Path) -> None:
        self.group(hierarchy / "user", "memory pids")
        self.group(hierarchy / "user/app", "memory")
        self.group(hierarchy / "user/app/mine", "")
        assert self.parents(hierarchy, "/user/app/mine") == ["/user", "/"]

    def test_never_in_our_own_which_has_processes(self, hierarchy: Path) -> None:
        self.group(hierarchy / "user", "memory pids")
        assert self.parents(hierarchy, "/user") == ["/"]

    def test_the_root_when_we_are_in_it(self, hierarchy: Path) -> None:
        assert self.parents(hierarchy, "/") == ["/"]

    def test_none_where_nothing_is_handed_out(self, hierarchy: Path) -> None:
        self.group(hierarchy, "")
        assert self.parents(hierarchy, "/") == []

    def test_none_without_the_right_to_move_processes(self, hierarchy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert self.parents(hierarchy, "/") == []
