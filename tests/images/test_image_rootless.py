"""Podman without root: the same keys and trees as root's bubblewrap and podman, and nothing left of a killed build.

Where root runs the tests an ordinary user is made for them: in a mount namespace of their own ``/etc/passwd`` and
``/etc/subuid`` have one more line. There the second hierarchy of control groups is unmounted too: crun, which is the
runtime that runs without control groups, refuses machines that have both versions.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from image_harness import ORDINARY, User, need
from test_image_run import LOOK, tree

_CONF = """\
[containers]
log_driver = "none"
cgroups = "disabled"
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
_NAME = "hermetic-test"
_ENTER = """\
set -e
mount --make-rprivate /
umount /sys/fs/cgroup/unified 2> /dev/null || true
for name in passwd subuid subgid; do mount --bind "$1/$name" "/etc/$name"; done
shift
exec setpriv --reuid={uid} --regid={uid} --clear-groups "$@"
"""


@pytest.fixture
def rootless(make_user: Callable[[int | None], User], area: Path) -> User:
    """An ordinary user with a podman that works; skips with podman's own words where it does not."""
    need("podman", "crun", "newuidmap", "unshare", "setpriv")
    need("catatonit" if not Path("/usr/libexec/podman/catatonit").exists() else "podman")
    user = make_user(ORDINARY if os.geteuid() == 0 else None)
    if os.geteuid() == 0:
        _become(user)
    user.write("containers.conf", _CONF)
    user.write(
        "storage.conf",
        f'[storage]\ndriver = "overlay"\nrunroot = "{user.folder}/run"\ngraphroot = "{user.folder}/graph"\n',
    )
    user.variables |= {name: str(user.folder / file) for name, file in _FILES.items()}
    runtime = user.folder / "runtime"
    runtime.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(runtime, ORDINARY, ORDINARY)
    done = podman(user, "info")
    if done.returncode != 0:
        pytest.skip(f"needs podman without root: {done.stderr.strip()[-300:]}")
    return user


_FILES = {
    "CONTAINERS_CONF": "containers.conf",
    "CONTAINERS_STORAGE_CONF": "storage.conf",
    "XDG_RUNTIME_DIR": "runtime",
}


def _become(user: User) -> None:
    """Root's tests: every command of the user goes through a namespace in which the user may map ids."""
    places = user.folder / "etc"
    places.mkdir()
    known = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[2] != str(ORDINARY)]
    mine = f"{_NAME}:x:{ORDINARY}:{ORDINARY}::{user.folder}/home:/bin/sh"
    (places / "passwd").write_text("\n".join([*known, mine, ""]))
    for name in ("subuid", "subgid"):
        Path("/etc", name).touch()  # to be mounted over
        (places / name).write_text(f"{_NAME}:200000:65536\n")
    (places / "enter").write_text(_ENTER.format(uid=ORDINARY))
    user.command = ["unshare", "--mount", "sh", str(places / "enter"), str(places), *user.command]
    user.uid = None


def podman(user: User, *words: str) -> subprocess.CompletedProcess[str]:
    at = user.command.index("-m") - 1 if "-m" in user.command else len(user.command)
    command = [*user.command[:at], "podman", *words]
    return subprocess.run(command, env=user.environment(), capture_output=True, text=True, check=False, cwd=user.folder)


def recipe(user: User, image: str, script: str) -> None:
    user.recipe(image, script)
    if os.geteuid() == 0:
        for path in user.folder.iterdir():
            if path.is_file():
                os.chown(path, ORDINARY, ORDINARY)


def test_the_same_keys_and_trees_as_root_s(rootless: User, me: User, pushed: str):
    recipe(rootless, pushed, LOOK + "cat /proc/self/uid_map > /dev/null")
    assert rootless("lock", "recipe.py").status == 0
    theirs = tree(rootless, "--runtime", "podman")
    me.recipe(pushed, LOOK + "cat /proc/self/uid_map > /dev/null")
    me("lock", "recipe.py")
    ours = tree(me, "--runtime", "bwrap")
    assert (theirs["key"], theirs["tree"]) == (ours["key"], ours["tree"])
    if os.geteuid() == 0:
        assert os.stat(theirs["path"]).st_uid == ORDINARY


@pytest.mark.parametrize(("script", "said"), [("exit 3", "exited with status 3"), ("kill -9 $$", "killed by signal 9")])
def test_how_it_ends_is_told(rootless: User, pushed: str, script: str, said: str):
    recipe(rootless, pushed, script)
    rootless("lock", "recipe.py")
    ran = rootless("realise", "recipe.py", "--no-link", "--runtime", "podman")
    assert ran.status == 100, ran.stderr
    assert said in ran.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_killed_build(rootless: User, pushed: str, how: signal.Signals):
    mark = str(10**8 + os.getpid())
    script = f"setsid sleep {mark} & (setsid sh -c 'sleep {mark} &' &); echo up; sleep {mark}"
    recipe(rootless, pushed, script)
    rootless("lock", "recipe.py")
    build = rootless.start("realise", "recipe.py", "--no-link", "--runtime", "podman", "--json")
    assert build.stdout is not None
    assert any(json.loads(line).get("line") == "up" for line in build.stdout), build.communicate()
    assert living(mark)
    watched = [os.pidfd_open(pid) for pid in descendants(build.pid)]  # the guard, which has podman forget, among them
    build.send_signal(how)
    build.communicate()
    for descriptor in watched:
        assert select.select([descriptor], [], [], 5)[0], "a process outlived its driver"
        os.close(descriptor)
    assert living(mark) == []


def descendants(pid: int) -> list[int]:
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(each for child in found for each in descendants(child))]


def living(mark: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(int(name))
    return found
