"""Podman: nothing outlives its build, whoever dies first; and the exit of a stage is told as bubblewrap's is."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from image_harness import User, need

from hermetic.sandbox import podman as engine

LIMIT_S = 5  # P8


def marker() -> str:
    """Seconds to sleep that nobody else sleeps."""
    return str(random.randrange(10**8, 10**9))


def living(mark: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def containers(user: User) -> list[str]:
    listing = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    return subprocess.run(listing, env=user.environment(), capture_output=True, text=True, check=True).stdout.split()


def stubborn(mark: str) -> str:
    """Four sleepers, each of which says "up": plain, in a session of its own, an orphan, one that ignores SIGTERM."""
    return f"""
up='echo up; exec sleep {mark}'
sh -c "$up" &
setsid sh -c "$up" &
(setsid sh -c "sh -c '$up' & " &)
sh -c "trap '' TERM HUP INT; $up" &
while true; do sleep 1; done
"""


@dataclass
class Started:
    """A build whose stage runs, and a descriptor of each process that must end with it."""

    process: subprocess.Popen[str]
    watched: dict[int, int]

    def ended(self) -> str:
        """Wait for the driver, then for the others; what the driver said on stderr."""
        _, said = self.process.communicate()
        deadline = time.monotonic() + LIMIT_S
        for pid, descriptor in self.watched.items():
            left = max(0.0, deadline - time.monotonic())
            assert select.select([descriptor], [], [], left)[0], f"process {pid} outlived its driver"
            os.close(descriptor)
        return said


def started(user: User, pushed: str, mark: str) -> Started:
    user.recipe(pushed, stubborn(mark))
    assert user("lock", "recipe.py").status == 0
    process = user.start("realise", "recipe.py", "--no-link", "--runtime", "podman", "--json")
    said = (json.loads(line) for line in process.stdout)
    ups = sum(1 for _ in itertools.islice((event for event in said if event.get("line") == "up"), 4))
    assert ups == 4, process.communicate()
    pids = {guard_of(process), client_of(process), *descendants(guard_of(process))}
    assert len(pids) >= 6
    watched = {pid: watch(pid) for pid in pids}
    return Started(process, {pid: descriptor for pid, descriptor in watched.items() if descriptor is not None})


def assert_nothing_is_left(user: User, mark: str) -> None:
    assert living(mark) == []
    assert containers(user) == []
    mounts = Path("/proc/self/mounts").read_text()
    assert not [line for line in mounts.splitlines() if f"{user.folder}/run" in line or f"{user.store}" in line]


def guard_of(driver: subprocess.Popen[str]) -> int:
    """The driver's one child."""
    return int(children(driver.pid)[0])


def client_of(driver: subprocess.Popen[str]) -> int:
    pids = children(guard_of(driver))
    return next(pid for pid in pids if b"podman\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes())


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def descendants(pid: int) -> list[int]:
    """By parents, not by command lines: a process that is about to run another program has none for a moment."""
    found = []
    pending = [pid]
    while pending:
        with contextlib.suppress(FileNotFoundError):
            below = children(pending.pop())
            found += below
            pending += below
    return found


def watch(pid: int) -> int | None:
    """A descriptor of a process; none of one that ended since it was found, as the stage's short sleeps do."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def below(pid: int, name: str) -> int:
    """A descendant of `pid` that runs the program `name`."""
    pending = children(pid)
    while Path(f"/proc/{pending[0]}/comm").read_text().strip() != name:
        pending += children(pending.pop(0))
    return pending[0]


class Gate:
    """A program on the way into a container that stands still before or after one of its subcommands."""

    def __init__(self, user: User, program: str, subcommand: str, when: str) -> None:
        self._arrived, self._release = user.folder / "arrived", user.folder / "release"
        for fifo in (self._arrived, self._release):
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo)
        (user.folder / "gates").mkdir(exist_ok=True)
        real = shutil.which(program)
        stop = f'case " $* " in *" {subcommand} "*) echo > {self._arrived}; read _ < {self._release} ;; esac'
        steps = [stop, f'exec {real} "$@"'] if when == "before" else [f'{real} "$@"', "status=$?", stop, "exit $status"]
        user.write(f"gates/{program}", "\n".join(["#!/bin/sh", *steps, ""]), mode=0o755)

    def wait(self) -> None:
        self._arrived.read_text()

    def open(self) -> None:
        """For whoever stands there; needless when that was killed."""
        self._release.write_text("")


class TestNothingIsLeft:
    @pytest.mark.parametrize(
        "how",
        [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGTERM, signal.SIGINT))],
    )
    def test_when_the_driver_is_stopped(self, podman: User, pushed: str, how):
        mark = marker()
        stage = started(podman, pushed, mark)
        stage.process.send_signal(how)
        stage.ended()
        assert_nothing_is_left(podman, mark)

    def test_when_the_client_is_killed(self, podman: User, pushed: str):
        mark = marker()
        stage = started(podman, pushed, mark)
        os.kill(client_of(stage.process), signal.SIGKILL)
        assert "killed by signal 9" in stage.ended()
        assert stage.process.returncode == 100
        assert_nothing_is_left(podman, mark)

    def test_when_the_guard_is_killed(self, podman: User, pushed: str):
        mark = marker()
        stage = started(podman, pushed, mark)
        os.kill(guard_of(stage.process), signal.SIGKILL)
        stage.ended()
        assert stage.process.returncode == 100
        assert_nothing_is_left(podman, mark)

    # Podman's client waits 20 seconds for a keeper, conmon, that is gone.
    @pytest.mark.parametrize(
        ("name", "code"), [pytest.param("conmon", 4, marks=pytest.mark.slow), ("podman-init", 100)]
    )
    def test_when_one_within_is_killed(self, podman: User, pushed: str, name, code):
        """The container's keeper, and its first process."""
        mark = marker()
        stage = started(podman, pushed, mark)
        os.kill(below(guard_of(stage.process), name), signal.SIGKILL)
        stage.ended()
        assert stage.process.returncode == code
        assert_nothing_is_left(podman, mark)

    @pytest.mark.slow
    def test_what_driver_and_guard_left_is_swept_by_the_next_run(self, podman: User, pushed: str):
        mark = marker()
        stage = started(podman, pushed, mark)
        guard = guard_of(stage.process)
        os.kill(guard, signal.SIGSTOP)  # so that it cannot do anything about the driver's death
        stage.process.kill()
        stage.process.wait()
        os.kill(guard, signal.SIGKILL)
        assert containers(podman)
        podman.recipe(pushed, "echo done > /build/out/f")
        assert podman("realise", "recipe.py", "--no-link", "--runtime", "podman").path
        stage.ended()
        assert_nothing_is_left(podman, mark)

    @pytest.mark.slow
    def test_when_the_stage_takes_too_long(self, podman: User, pushed: str):
        mark = marker()
        podman.recipe(pushed, stubborn(mark), timeout="2")
        podman("lock", "recipe.py")
        ran = podman("realise", "recipe.py", "--no-link", "--runtime", "podman")
        assert ran.status == 101
        assert "error[timeout/stage-timed-out]" in ran.stderr
        assert_nothing_is_left(podman, mark)

    def test_when_its_program_ends_and_others_do_not(self, podman: User, pushed: str):
        mark = marker()
        podman.recipe(pushed, f"setsid sleep {mark} & echo done > /build/out/f")
        podman("lock", "recipe.py")
        assert podman("realise", "recipe.py", "--no-link", "--runtime", "podman").path
        assert_nothing_is_left(podman, mark)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("program", "subcommand", "when"),
        [
            ("podman", "ps", "before"),
            ("podman", "run", "before"),
            ("runc", "create", "before"),
            ("runc", "create", "after"),
            ("runc", "start", "before"),
            ("runc", "start", "after"),
        ],
    )
    def test_when_the_driver_is_killed_on_the_way(self, podman: User, pushed: str, program, subcommand, when):
        """Every step from before podman is started until the stage runs."""
        mark = marker()
        podman.recipe(pushed, stubborn(mark))
        assert podman("lock", "recipe.py").status == 0
        gate = Gate(podman, program, subcommand, when)
        podman.variables["PATH"] = f"{podman.folder}/gates:{os.environ['PATH']}"
        settings = podman.folder / "containers.conf"
        settings.write_text(settings.read_text() + f'[engine.runtimes]\nrunc = ["{podman.folder}/gates/runc"]\n')
        process = podman.start("realise", "recipe.py", "--no-link", "--runtime", "podman")
        gate.wait()
        watched = {pid: os.pidfd_open(pid) for pid in children(process.pid)}
        process.kill()
        if subcommand == "ps":  # which nobody guards, and which does nothing but look
            gate.open()
        Started(process, watched).ended()
        del podman.variables["PATH"]
        assert_nothing_is_left(podman, mark)


class TestHowItEnds:
    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("exit 3", "exited with status 3"),
            ("kill -9 $$", "killed by signal 9"),
            pytest.param("kill -SEGV $$", "killed by signal 11", marks=pytest.mark.slow),
            ("echo to the log; exit 1", "| to the log"),
        ],
    )
    def test_is_told_as_bubblewrap_tells_it(self, podman: User, pushed: str, script, said):
        podman.recipe(pushed, script)
        podman("lock", "recipe.py")
        for runtime in ("bwrap", "podman"):
            ran = podman("realise", "recipe.py", "--no-link", "--runtime", runtime)
            assert ran.status == 100
            assert said in ran.stderr

    def test_podman_s_own_failure_is_the_environment_s(self, podman: User, pushed: str):
        podman.recipe(pushed)
        podman("lock", "recipe.py")
        assert podman("realise", "recipe.py", "--no-link", "--runtime", "podman").path
        podman.recipe(pushed, "echo other > /build/out/f")
        podman.write("containers.conf", '[engine]\nruntime = "/nowhere"\ncgroup_manager = "cgroupfs"\n')
        ran = podman("realise", "recipe.py", "--no-link", "--runtime", "podman")
        assert ran.status == 4
        assert "error[environment/sandbox-failed]" in ran.stderr
        assert "podman could not start the stage" in ran.stderr


class TestTheChoice:
    def test_bubblewrap_where_it_works(self):
        assert engine.choose("auto") == "bwrap"
        assert engine.choose("bwrap") == "bwrap"

    def test_podman_where_bubblewrap_is_missing(self, me: User, monkeypatch):
        need("podman")
        from hermetic.sandbox import tools

        def missing() -> str:
            raise tools.no_sandbox("none", "none")

        monkeypatch.setattr(tools, "available", missing)
        assert engine.choose("auto") == "podman"

    def test_without_podman(self, me: User):
        tools = me.folder / "tools"
        tools.mkdir()
        me.variables["PATH"] = str(tools)
        me.recipe("registry.example.com/tool@sha256:" + "0" * 64)
        ran = me("realise", "recipe.py", "--no-link", "--runtime", "podman")
        assert ran.status == 4
        assert "error[environment/no-podman]" in ran.stderr


def test_docker_s_client_understands_its_arguments():
    """It reads all of them before it looks for a daemon, of which there is none here."""
    need("docker")
    from test_image_run import sample_plan

    command = ["docker", *sample_plan().docker_args("n")]
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///nowhere/docker.sock", "HOME": "/nowhere"}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stderr
    assert "unknown" not in said
    assert "nowhere/docker.sock" in said
