"""What the kernel says of a stage: who holds a file, and that freezing stops everybody. As root and as a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("watch_driver.py")
REPOSITORY = Path(__file__).parents[2]
ORDINARY = 65534


@pytest.fixture(params=["root", "ordinary user"])
def watch(request, tmp_path_factory):
    """Run `program` as a stage and watch it: ``watch(text, "ready")`` looks when it has printed "ready"."""
    folder = tmp_path_factory.mktemp("watch")
    identity = {}
    python = sys.executable
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    if request.param != "root" and os.geteuid() == 0:
        identity = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
        python = "/usr/bin/python3"
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        os.chown(folder, ORDINARY, ORDINARY)
        code = folder / "code"
        subprocess.run(["mkdir", "-p", code / "hermetic"], check=True)
        for name in ("sandbox", "__init__.py", "errors.py"):
            subprocess.run(["cp", "-r", REPOSITORY / "hermetic" / name, code / "hermetic"], check=True)
        subprocess.run(["cp", DRIVER, code], check=True)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        driver, path = code / DRIVER.name, code
    else:
        driver, path = DRIVER, REPOSITORY

    def run(program: str, *, times: int = 1) -> dict:
        place = folder / f"ws{len(os.listdir(folder))}"
        order = {"program": program, "place": str(place), "times": times}
        done = subprocess.run(
            [python, str(driver)],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(path)},
            check=False,
            **identity,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield run
    subprocess.run(["rm", "-r", folder], check=True)


HEAD = """
import mmap, os, signal, sys, threading, time
os.chdir("/build/out")
def ready(): print("ready", flush=True); signal.pause()
"""


def holders(seen: dict) -> set[str]:
    return {how for _, how in seen["holders"]}


def test_open_for_writing(watch) -> None:
    seen = watch(HEAD + "f = open('rank0.engine', 'wb'); f.write(b'ftrt'); f.flush(); ready()")
    assert holders(seen) == {"open for writing"}


def test_open_for_reading_and_closed(watch) -> None:
    seen = watch(HEAD + "open('rank0.engine', 'wb').write(b'ftrt'); f = open('rank0.engine', 'rb'); ready()")
    assert (seen["holders"], seen["hidden"], seen["frozen"]) == ([], [], True)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("mmap.mmap(fd, 8, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)", {"mapped writable"}),
        ("mmap.mmap(fd, 8, mmap.MAP_SHARED, mmap.PROT_READ)", {"mapped writable"}),  # mprotect may make it so
        ("mmap.mmap(fd, 8, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)", set()),
    ],
)
def test_mapped_by_a_writer(watch, mapping: str, expected: set[str]) -> None:
    """The mapping keeps no descriptor; Python's own copy of one is closed too."""
    program = HEAD + (
        "import ctypes\n"
        "open('rank0.engine', 'wb').write(b'ftrtftrt'); fd = os.open('rank0.engine', os.O_RDWR)\n"
        f"m = {mapping}\n"
        "for n in range(3, 20):\n"
        "    try: os.close(n)\n"
        "    except OSError: pass\n"
        "ready()"
    )
    assert holders(watch(program)) == expected


def test_a_reader_s_shared_mapping_is_no_writer(watch) -> None:
    program = HEAD + (
        "open('rank0.engine', 'wb').write(b'ftrtftrt'); fd = os.open('rank0.engine', os.O_RDONLY)\n"
        "m = mmap.mmap(fd, 8, mmap.MAP_SHARED, mmap.PROT_READ); ready()"
    )
    assert holders(watch(program)) == set()


def test_a_child_in_a_session_of_its_own_under_another_name(watch) -> None:
    """Renamed, hard-linked or deleted, it is the same inode; and the child's parent is gone."""
    program = HEAD + (
        "f = open('other', 'wb'); f.write(b'ftrt'); f.flush()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: signal.pause()\n"
        "    os._exit(0)\n"
        "os.wait(); f.close(); os.rename('other', 'rank0.engine'); ready()"
    )
    assert holders(watch(program)) == {"open for writing"}


def test_a_process_that_hides_itself_is_told(watch) -> None:
    """PR_SET_DUMPABLE 0 keeps an ordinary user out; root sees through it."""
    program = HEAD + (
        "import ctypes\n"
        "f = open('rank0.engine', 'wb'); f.write(b'ftrt'); f.flush()\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); ready()"
    )
    seen = watch(program)
    assert seen["hidden"] or seen["holders"]


def test_freezing_stops_every_thread_and_forks_too(watch) -> None:
    """Threads that write without a pause and a parent that forks all the time: frozen, nothing changes."""
    program = HEAD + (
        "def write():\n"
        "    n = 0\n"
        "    while True:\n"
        "        n += 1; open('rank0.engine', 'wb').write(b'ftrt' * (n % 1000))\n"
        "for _ in range(4): threading.Thread(target=write, daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    child = os.fork()\n"
        "    if child == 0: os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    seen = watch(program, times=5)
    assert seen["frozen"]
    assert seen["changed_while_frozen"] == []
    assert seen["went_on"]


def test_a_kill_gives_nobody_a_last_word(watch) -> None:
    """On SIGTERM this one would write its file anew; it is killed while it is stopped, and with SIGKILL."""
    program = HEAD + (
        "open('rank0.engine', 'wb').write(b'ftrtftrt')\n"
        "signal.signal(signal.SIGTERM, lambda *_: open('rank0.engine', 'wb').write(b'x'))\n"
        "while True:\n"
        "    ready()\n"
    )
    assert watch(program)["left"] == "ftrtftrt"
