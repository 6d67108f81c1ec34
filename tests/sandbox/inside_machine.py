"""Runs in the virtual machine as its first process: stages under control groups of version 2, as root and under a
user's delegation. Prints one line of JSON for each and switches the machine off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback

ORDINARY = 65534
GROUPS = "/sys/fs/cgroup"
MOUNTS = [(place, place) for place in ("/usr", "/lib", "/lib64")]
HOG = "blocks = [bytearray(b'x' * (8 << 20)) for _ in range(24)]"
CHILD = f"import subprocess, sys; sys.exit(3 if subprocess.run([sys.executable, '-c', {HOG!r}]).returncode else 0)"
HOLD = "import time; block = bytearray(b'x' * (150 << 20)); time.sleep(3)"
FORKS = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except BlockingIOError:
    print(count)
"""
STAGES = {
    "hog": (HOG, {"memory_mb": 64}),
    "hog in a child": (CHILD, {"memory_mb": 64}),
    "forks": (FORKS, {"processes": 20}),
    "hold": (HOLD, {}),
    "enough": (HOG, {"memory_mb": 400, "processes": 50}),
}


def main() -> None:
    for name, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")):
        os.makedirs(place, exist_ok=True)
        mount("-t", name, name, place)
    os.chmod("/tmp", 0o1777)
    mount("-t", "cgroup2", "cgroup2", GROUPS)
    write("cgroup.subtree_control", "+memory +pids")
    subprocess.run(["/bin/busybox", "ip", "link", "set", "lo", "up"], check=False)
    os.makedirs("/scratch/root")
    os.makedirs("/scratch/user")
    os.chown("/scratch/user", ORDINARY, ORDINARY)
    run_all("root", {})
    delegate()
    identity = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
    run_all("user", identity, f"{GROUPS}/theirs/leaf/cgroup.procs")
    run_all("user without a group", identity)


def delegate() -> None:
    """As systemd does for a user: a group that is theirs, with the controllers, and themselves in one below it."""
    os.makedirs(f"{GROUPS}/theirs/leaf")
    write("theirs/cgroup.subtree_control", "+memory +pids")
    for name in ("theirs", "theirs/leaf"):
        for file in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
            os.chown(f"{GROUPS}/{name}{file}", ORDINARY, ORDINARY)


def run_all(who: str, identity: dict, door: str = "") -> None:
    scratch = "/scratch/root" if who == "root" else "/scratch/user"

    def enter() -> None:
        if door:
            with open(door, "w") as stream:
                stream.write("0")

    for name, (program, limits) in STAGES.items():
        order = {
            "scratch": scratch,
            "argv": ["/usr/bin/python3", "/build/program/main.py"],
            "program": {"main.py": program},
            "mounts": MOUNTS,
            "limits": limits,
        }
        done = subprocess.run(
            ["/bin/busybox", "env", "PYTHONPATH=/code", "PATH=/usr/bin:/bin", "/usr/bin/python3", "/code/driver.py"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=enter_as(enter, identity),
        )
        said = json.loads(done.stdout)[-1] if done.returncode == 0 else {"failed": done.stderr}
        tell(who=who, stage=name, **said, left_groups=left())


def enter_as(enter, identity: dict):
    """The group first, which only root may enter from outside."""

    def both() -> None:
        enter()
        if identity:
            os.setgroups([])
            os.setresgid(ORDINARY, ORDINARY, ORDINARY)
            os.setresuid(ORDINARY, ORDINARY, ORDINARY)

    return both


def left() -> list[str]:
    return [folder for folder, _, _ in os.walk(GROUPS) if "hermetic-" in folder]


def mount(*arguments: str) -> None:
    subprocess.run(["/bin/busybox", "mount", *arguments], check=True)


def write(name: str, text: str) -> None:
    with open(f"{GROUPS}/{name}", "w") as stream:
        stream.write(text)


def tell(**facts: object) -> None:
    sys.stdout.write(f"\n@@{json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001  # who boots this machine shows it
        tell(crashed=traceback.format_exc())
    subprocess.run(["/bin/busybox", "poweroff", "-f"], check=False)
