"""The process that makes the guards: whose children they are, what they hold, and who dies with whom."""

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HEAD = """
import json, os, signal, sys
from hermetic.sandbox import forker, launch
def child(**more):
    return launch.Child(**({"sources": (), "limits": (), "drop": False, "report": -1, "parent": os.getpid()} | more))
def run(command, keep=(), **more):
    reader, writer = os.pipe2(os.O_CLOEXEC)
    launched = forker.spawn(command, (-3, writer, writer), keep, child(**more))
    os.close(writer)
    with open(reader) as said:
        return launched, launched.refused(), said.read()
"""


def python(program: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run `program` after the head in a process of its own: the forker belongs to a process for its life."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    text = HEAD + textwrap.dedent(program)
    return subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, check=False, **more)


def said(program: str) -> str:
    done = python(program)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard_is_the_driver_s_child_and_ends_as_the_program_does() -> None:
    program = """
        launched, refused, _ = run(["/bin/sh", "-c", "exit 7"])
        print(refused, os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1]))
    """
    assert said(program).split() == ["7"]


def test_one_forker_makes_all_of_them() -> None:
    program = """
        parents = set()
        for _ in range(3):
            launched, _, _ = run(["/bin/true"])
            os.waitpid(launched.pid, 0)
            parents.add(forker._forker.pid)
        print(len(parents))
    """
    assert said(program) == "1\n"


def test_what_is_kept_has_its_number_and_nothing_else_is_open() -> None:
    program = """
        secret = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(secret, True)
        files = [os.memfd_create(str(number), 0) for number in range(40)]
        kept = files[::13]
        for number in kept:
            os.write(number, b"%d" % number)
            os.lseek(number, 0, 0)
        script = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd'))); " + "; ".join(
            f"print(os.read({number}, 9).decode())" for number in kept)
        launched, refused, text = run([sys.executable, "-c", script], keep=kept)
        assert not refused, refused
        os.waitpid(launched.pid, 0)
        numbers, *contents = text.splitlines()
        found = json.loads(numbers)
        assert found == sorted([0, 1, 2, 3, *kept]), found  # 3 is the folder's own
        assert contents == [str(number) for number in kept], contents
    """
    said(program)


def test_it_is_no_part_of_the_terminal_s_session_and_holds_no_lock_of_the_driver() -> None:
    program = """
        import fcntl, tempfile
        lock = tempfile.TemporaryFile()
        fcntl.flock(lock, fcntl.LOCK_EX)
        launched, _, _ = run(["/bin/true"])
        os.waitpid(launched.pid, 0)
        pid = forker._forker.pid
        assert os.getsid(pid) == pid != os.getsid(0)
        names = {os.readlink(f"/proc/{pid}/fd/{number}").partition(":")[0] for number in os.listdir(f"/proc/{pid}/fd")}
        assert names == {"/dev/null", "socket"}, names
    """
    said(program)


@pytest.mark.parametrize(
    ("command", "more", "begins"),
    [
        (["/nowhere/bwrap"], {}, "2 execute "),
        (["/etc/passwd"], {}, "13 execute "),
        (["/bin/true"], {"groups": ("/nowhere/cgroup.procs",)}, "2 join its control group"),
    ],
)
def test_what_cannot_be_started_is_told(command: list[str], more: dict, begins: str) -> None:
    program = f"""
        launched, refused, _ = run({command!r}, **{more!r})
        os.waitpid(launched.pid, 0)
        print(refused)
    """
    assert said(program).startswith(begins)


def test_a_forker_that_was_killed_is_an_error_once_and_then_replaced() -> None:
    program = """
        launched, _, _ = run(["/bin/true"])
        os.waitpid(launched.pid, 0)
        os.kill(forker._forker.pid, signal.SIGKILL)
        try:
            run(["/bin/true"])
        except OSError:
            launched, refused, _ = run(["/bin/true"])
            print(refused, os.waitpid(launched.pid, 0)[1])
    """
    assert said(program).split() == ["0"]


def test_a_guard_outlives_the_forker_s_death_and_not_the_driver_s() -> None:
    program = """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        launched = forker.spawn(["/bin/sleep", "900000123"], (-3, writer, writer), (), child())
        os.kill(forker._forker.pid, signal.SIGKILL)
        os.waitpid(forker._forker.pid, 0)
        os.kill(launched.pid, 0)
        print(launched.pid, flush=True)
        signal.pause()
    """
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(program)], env=env, stdout=subprocess.PIPE, text=True
    ) as driver:
        guard = os.pidfd_open(int(driver.stdout.readline()))
        driver.send_signal(signal.SIGKILL)
    assert select.select([guard], [], [], 30)[0]
    os.close(guard)


def test_the_forker_ends_with_its_driver() -> None:
    pid = int(said("run(['/bin/true']); print(forker._forker.pid)"))
    try:
        gone = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([gone], [], [], 30)[0]
    os.close(gone)


def test_a_fork_of_the_driver_makes_one_of_its_own() -> None:
    program = """
        launched, _, _ = run(["/bin/true"])
        os.waitpid(launched.pid, 0)
        if os.fork() == 0:
            launched, refused, _ = run(["/bin/true"])
            os._exit(1 if refused else os.waitpid(launched.pid, 0)[1])
        print(os.wait()[1])
    """
    assert said(program) == "0\n"
