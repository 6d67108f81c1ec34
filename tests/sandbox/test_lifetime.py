"""How stages end, and that nothing of them is left (P8)."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from pathlib import Path

import pytest
from sandbox_harness import Driver, living, python_order, wait_for

from hermetic.errors import HermeticError
from hermetic.sandbox import runner
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.plan import LaunchPlan

# Three processes that try to outlive their stage; each holds the marker in its command line.
STUBBORN = """
import json, os, signal, subprocess, sys, time
marker = json.load(open("/build/stage.json"))["marker"]
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
for _ in range(2):
    child = subprocess.Popen([sys.executable, "-c", code, marker], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", code, marker])
    os._exit(0)
os.wait()
"""


@pytest.fixture
def marker() -> str:
    return f"marker-{os.urandom(8).hex()}"


def test_exit_status_output_and_log(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(
        bare_python,
        "import sys; print('to out'); print('to err', file=sys.stderr); open('/build/out/x', 'w'); sys.exit(7)",
    )
    assert (done["exit"]["status"], done["exit"]["signal"]) == (7, None)
    assert sorted(done["log"].split("\n")) == ["", "to err", "to out"]
    assert done["output"] == done["log"]
    assert done["left"] == ["x"]


def test_a_signal_is_told(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, "import os; os.kill(os.getpid(), 11)")
    assert (done["exit"]["status"], done["exit"]["signal"]) == (None, signal.SIGSEGV)


def test_background_processes_end_with_the_stage(driver: Driver, bare_python: EnvironmentMounts, marker: str) -> None:
    done = driver.python_stage(bare_python, STUBBORN + "sys.exit(3)", facts={"marker": marker})
    assert done["exit"]["status"] == 3, done
    assert living(marker) == []


def test_wall_time_is_a_limit(driver: Driver, bare_python: EnvironmentMounts, marker: str) -> None:
    done = driver.python_stage(
        bare_python, STUBBORN + "time.sleep(600)", facts={"marker": marker}, limits={"wall_s": 1}
    )
    assert done["exit"]["timed_out"]
    assert 1 <= done["seconds"] < 60
    assert living(marker) == []


def test_cancelling_kills_everything(driver: Driver, bare_python: EnvironmentMounts, marker: str) -> None:
    program = STUBBORN + "print('ready', flush=True); time.sleep(600)"
    done = driver.python_stage(bare_python, program, facts={"marker": marker}, cancel_on="ready")
    assert done["cancelled"]
    assert done["seconds"] < 60
    assert living(marker) == []


# Whom SIGKILL hits: how many steps below the driver they are.
VICTIMS = {
    "the driver": (0,),
    "the guard": (1,),
    "the driver and the guard": (1, 0),
    "bubblewrap": (2,),
    "the namespace's first process": (3,),
    "the program": (4,),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_nothing_is_left_whoever_dies_first(
    driver: Driver, bare_python: EnvironmentMounts, marker: str, victim: str
) -> None:
    """Processes in sessions of their own, orphans, and all ignoring SIGTERM."""
    program = STUBBORN + "open('/build/out/ready', 'w').close(); time.sleep(600)"
    process = driver.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(driver.order(**python_order(bare_python, program), facts={"marker": marker}, announce=True))
    process.stdin.close()
    json.loads(process.stdout.readline())
    watched = [os.pidfd_open(pid) for pid in wait_for(lambda: _at_least(3, living(marker)))]
    for pid in [_descendant(process.pid, depth) for depth in VICTIMS[victim]]:
        os.kill(pid, signal.SIGKILL)
    for pidfd in watched:
        assert select.select([pidfd], [], [], 5)[0], f"a process of the stage outlived {victim}"
        os.close(pidfd)
    said = process.stdout.read()
    process.stdout.close()
    assert process.wait() == (-signal.SIGKILL if 0 in VICTIMS[victim] else 0)
    assert living(marker) == []
    if 0 not in VICTIMS[victim]:
        assert json.loads(said)[-1]["exit"]["signal"] == signal.SIGKILL


def _descendant(pid: int, depth: int) -> int:
    """The one that leads to the program: the others are orphans that the guard or the first process took in."""
    for _ in range(depth):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pid = next(int(child) for child in children if not _is_forker(child) and not _is_orphan(child))
    return pid


def _is_forker(pid: str) -> bool:
    return not Path(f"/proc/{pid}/task/{pid}/children").read_text().split() and not _is_program(pid)


def _is_program(pid: str) -> bool:
    return b"main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _is_orphan(pid: str) -> bool:
    return b"marker-" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _at_least(count: int, found: list[int]) -> list[int] | None:
    return found if len(found) >= count else None


@pytest.mark.parametrize("turn", range(12))
def test_a_driver_killed_at_any_moment_of_the_launch(
    driver: Driver, bare_python: EnvironmentMounts, marker: str, turn: int
) -> None:
    """Nothing runs afterwards, however far bubblewrap had come: killed after `turn` milliseconds."""
    process = driver.start()
    assert process.stdin is not None
    assert process.stdout is not None
    order = python_order(bare_python, f"# {marker}\nimport time; time.sleep(600)")
    order["argv"] = [*order["argv"], marker]  # type: ignore[misc]
    process.stdin.write(driver.order(**order, announce=True))
    process.stdin.close()
    json.loads(process.stdout.readline())
    select.select([], [], [], turn / 1000)  # the moment is what is varied; no outcome depends on it
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: True if not living(marker) else None)


def test_only_the_main_thread_may_launch(tmp_path: Path) -> None:
    plan = LaunchPlan(argv=("/true",), workspace=str(tmp_path))
    caught: list[HermeticError] = []

    def other() -> None:
        try:
            runner.run(plan, log=1).send(None)
        except HermeticError as error:
            caught.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert caught[0].reason == "not-main-thread"


def test_what_cannot_start_is_an_error_of_the_environment(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver(argv=["/build/program/absent"], mounts=[])
    assert done["error"][:2] == ["environment", "sandbox-failed"] or done["exit"]["status"] != 0, done


def test_a_missing_source_is_named(driver: Driver) -> None:
    done = driver(argv=["/x"], mounts=[("/nowhere/at-all", "/x")])
    assert done["error"][:2] == ["environment", "sandbox-failed"]
    assert "/nowhere/at-all" in done["error"][2]


def test_descriptors_are_given_back(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, "", times=3)
    assert done["exit"]["status"] == 0


def test_output_belongs_to_whoever_builds(driver: Driver, bare_python: EnvironmentMounts) -> None:
    done = driver.python_stage(bare_python, "")
    expected = os.geteuid() if driver.uid is None else driver.uid
    assert done["owner"] == (64733 if expected == 0 else expected)


def test_a_log_that_cannot_be_written_ends_the_stage(
    driver: Driver, bare_python: EnvironmentMounts, marker: str
) -> None:
    program = STUBBORN + "print('ready', flush=True); time.sleep(600)"
    done = driver.python_stage(bare_python, program, facts={"marker": marker}, log="/dev/full")
    assert "No space left" in done["failed"]
    assert living(marker) == []
