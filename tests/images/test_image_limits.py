"""Limits and harvest under podman: the same as under bubblewrap, and told in the same words."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from image_harness import Ran, User

HOG = "s=0123456789abcdef; while true; do s=$s$s; done"


def realise(user: User, runtime: str = "podman") -> Ran:
    return user("realise", "recipe.py", "--no-link", "--runtime", runtime)


def prepared(user: User, image: str, script: str, **fields: object) -> None:
    user.recipe(image, script, **{name: str(value) for name, value in fields.items()})
    assert user("lock", "recipe.py").status == 0


def last(user: User) -> dict:
    newest = max((user.store / "builds").iterdir(), key=lambda folder: folder.name.split("-")[1])
    return json.loads((newest / "record.json").read_bytes())


def containers(user: User) -> list[str]:
    listing = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    return subprocess.run(listing, env=user.environment(), capture_output=True, text=True, check=True).stdout.split()


BOTH = ["bwrap", pytest.param("podman", marks=pytest.mark.slow)]


class TestLimits:
    @pytest.mark.parametrize("runtime", ["bwrap", "podman"])
    def test_out_of_memory(self, podman: User, pushed: str, runtime):
        prepared(podman, pushed, HOG, memory_mb=32)
        ran = realise(podman, runtime)
        assert ran.status == 100
        assert "error[build/out-of-memory]: stage 'out' ran out of memory: its limit is 32 MiB" in ran.stderr
        assert last(podman)["extra"]["used"]["limited_by"] in {"cgroup", "rlimit", "podman"}

    @pytest.mark.parametrize("runtime", BOTH)
    def test_processes(self, podman: User, pushed: str, runtime):
        prepared(podman, pushed, "i=0; while [ $i -lt 99 ]; do sleep 600 & i=$((i+1)); done", processes=30)
        ran = realise(podman, runtime)
        assert ran.status == 100
        assert "fork" in ran.stderr
        assert containers(podman) == []

    @pytest.mark.parametrize("runtime", BOTH)
    def test_disk(self, podman: User, pushed: str, runtime):
        """Files that are small one by one."""
        grow = "n=0; while true; do cat /bin/busybox > /build/tmp/$n; n=$((n+1)); done"
        prepared(podman, pushed, grow, disk_mb=16, shm_mb=4)
        ran = realise(podman, runtime)
        assert ran.status == 100
        assert "error[build/out-of-disk]: stage 'out' reached its limit of 16 MiB of disk" in ran.stderr

    @pytest.mark.parametrize("runtime", BOTH)
    def test_one_file(self, podman: User, pushed: str, runtime):
        prepared(podman, pushed, "while true; do cat /bin/busybox >> /build/tmp/x; done", disk_mb=8, shm_mb=4)
        ran = realise(podman, runtime)
        assert "build/out-of-disk" in ran.stderr

    @pytest.mark.parametrize("runtime", BOTH)
    def test_silence(self, podman: User, pushed: str, runtime):
        prepared(podman, pushed, "echo words; sleep 600", silence=1)
        ran = realise(podman, runtime)
        assert ran.status == 101
        assert "error[timeout/stage-silent]" in ran.stderr
        assert containers(podman) == []

    @pytest.mark.parametrize("runtime", BOTH)
    def test_what_was_used_is_known(self, podman: User, pushed: str, runtime):
        prepared(podman, pushed, "cat /bin/busybox > /build/out/f; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        assert realise(podman, runtime).path
        used = last(podman)["extra"]["used"]
        assert used["cpu_s"] > 0
        assert used["written"] >= os.stat("/bin/busybox").st_size


HARVESTED = """\
from hermetic import Harvest, Image, LogLine, Script
env = Image({image!r})
out = Script(
    "out.sh",
    environment=env,
    harvest=Harvest(artifacts=("engine",), complete=LogLine("all is written"), settle="1", timeout=60),
)
"""


def test_a_hanging_writer_is_harvested(podman: User, pushed: str):
    """It writes its file, says so, and never ends; neither do its children, which ignore SIGTERM."""
    script = "#!/bin/sh\ntrap '' TERM HUP\nsetsid sleep 600 &\ncat /bin/busybox > /build/out/engine\n"
    podman.write("out.sh", f"{script}echo all is written\nwhile true; do sleep 1; done\n", mode=0o755)
    podman.write("recipe.py", HARVESTED.format(image=pushed))
    assert podman("lock", "recipe.py").status == 0
    ran = realise(podman)
    assert os.listdir(ran.path) == ["engine"]
    assert "harvested" in ran.stderr
    assert last(podman)["outcome"] == "harvested"
    assert containers(podman) == []


def test_a_writer_that_holds_on_is_not(podman: User, pushed: str):
    """Its file is open for writing, seen from outside the container."""
    script = "#!/bin/sh\nexec 7> /build/out/engine\necho start >&7\necho all is written\nwhile true; do sleep 1; done\n"
    podman.write("out.sh", script, mode=0o755)
    podman.write("recipe.py", HARVESTED.format(image=pushed).replace("timeout=60", "timeout=8"))
    assert podman("lock", "recipe.py").status == 0
    ran = realise(podman)
    assert ran.status == 101
    assert "engine: open for writing by process" in ran.stderr
    assert containers(podman) == []
