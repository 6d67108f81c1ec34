"""Podman: nothing outlives its build, whoever dies first; and the exit of a stage is told as bubblewrap's is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
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
            if mark in Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0"):
                found.append(int(name))
        except OSError:
            continue
    return found


def containers(user: User) -> list[str]:
    listing = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    return subprocess.run(listing, env=user.environment(), capture_output=True, text=True, check=True).stdout.split()


def until(condition, what: str, limit: float = 20) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit, what
        time.sleep(0.01)
    return time.monotonic() - started


def stubborn(mark: str) -> str:
    """Four sleepers: plain, in a session of its own, an orphan, and one that ignores SIGTERM."""
    return f"""
sleep {mark} &
setsid sleep {mark} &
(setsid sh -c 'sleep {mark} & ' &)
sh -c "trap '' TERM HUP INT; sleep {mark}" &
while true; do sleep 1; done
"""


def started(user: User, pushed: str, mark: str) -> subprocess.Popen[str]:
    user.recipe(pushed, stubborn(mark))
    assert user("lock", "recipe.py").status == 0
    process = user.start("realise", "recipe.py", "--no-link", "--runtime", "podman")
    until(lambda: len(living(mark)) >= 4 or process.poll() is not None, "the stage did not start")
    assert process.poll() is None, process.communicate()
    return process


def assert_gone(user: User, mark: str) -> None:
    took = until(lambda: not living(mark) and not containers(user), "something was left", LIMIT_S)
    assert took < LIMIT_S
    mounts = Path("/proc/self/mounts").read_text()
    assert not [line for line in mounts.splitlines() if f"{user.folder}/run" in line or f"{user.store}" in line]


def guard_of(driver: subprocess.Popen[str]) -> int:
    """The driver's one child."""
    return int(Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()[0])


def client_of(driver: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{guard_of(driver)}/task/{guard_of(driver)}/children").read_text().split()
    return next(int(pid) for pid in children if b"podman\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes())


class TestNothingIsLeft:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_when_the_driver_is_stopped(self, podman: User, pushed: str, how):
        mark = marker()
        process = started(podman, pushed, mark)
        process.send_signal(how)
        process.communicate()
        assert_gone(podman, mark)

    def test_when_the_client_is_killed(self, podman: User, pushed: str):
        mark = marker()
        process = started(podman, pushed, mark)
        os.kill(client_of(process), signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == 100
        assert "killed by signal 9" in said
        assert_gone(podman, mark)

    def test_when_the_guard_is_killed(self, podman: User, pushed: str):
        mark = marker()
        process = started(podman, pushed, mark)
        os.kill(guard_of(process), signal.SIGKILL)
        process.communicate()
        assert process.returncode == 100
        assert_gone(podman, mark)

    def test_what_driver_and_guard_left_is_swept_by_the_next_run(self, podman: User, pushed: str):
        mark = marker()
        process = started(podman, pushed, mark)
        guard = guard_of(process)
        os.kill(guard, signal.SIGSTOP)  # so that it cannot do anything about the driver's death
        process.kill()
        process.communicate()
        os.kill(guard, signal.SIGKILL)
        assert containers(podman)
        podman.recipe(pushed, "echo done > /build/out/f")
        assert podman("realise", "recipe.py", "--no-link", "--runtime", "podman").path
        assert_gone(podman, mark)

    def test_when_the_stage_takes_too_long(self, podman: User, pushed: str):
        mark = marker()
        podman.recipe(pushed, stubborn(mark), timeout="2")
        podman("lock", "recipe.py")
        ran = podman("realise", "recipe.py", "--no-link", "--runtime", "podman")
        assert ran.status == 101
        assert "error[timeout/stage-timed-out]" in ran.stderr
        assert_gone(podman, mark)

    def test_when_its_program_ends_and_others_do_not(self, podman: User, pushed: str):
        mark = marker()
        podman.recipe(pushed, f"setsid sleep {mark} & echo done > /build/out/f")
        podman("lock", "recipe.py")
        assert podman("realise", "recipe.py", "--no-link", "--runtime", "podman").path
        assert_gone(podman, mark)

    def test_killed_at_any_moment(self, podman: User, pushed: str):
        """From before podman is started until the stage runs."""
        mark = marker()
        first = started(podman, pushed, mark)
        first.kill()
        first.communicate()
        for step in range(8):
            process = podman.start("realise", "recipe.py", "--no-link", "--runtime", "podman")
            time.sleep(0.1 + 0.06 * step)
            process.kill()
            process.communicate()
        assert_gone(podman, mark)


class TestHowItEnds:
    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("exit 3", "exited with status 3"),
            ("kill -9 $$", "killed by signal 9"),
            ("kill -SEGV $$", "killed by signal 11"),
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
