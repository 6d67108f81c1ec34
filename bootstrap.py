#!/usr/bin/env python3
"""Sets this checkout up and runs it, with nothing but Python 3.11 or newer on a Debian or Ubuntu machine.

    python3 bootstrap.py                   realise the tiny engine; stdout gets its store path
    python3 bootstrap.py test [ARG...]     the tests; arguments go to pytest
    python3 bootstrap.py hermetic ARG...   the command itself
    python3 bootstrap.py python ARG...     the interpreter of the development environment

Set-up is a `.venv` beside this file with exactly what `requirements/` locks, and the few system packages named in
`SYSTEM`. It is done once, and again when the locks change; an interrupted run, or a second one at the same time, does
no harm. Everything but the result of the command goes to stderr.

This file must run before anything is installed: standard library only, and syntax that an older Python reads far
enough to say that it is too old.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
HERMETIC = os.path.join(VENV, "bin", "hermetic")
MARKER = os.path.join(VENV, "made-by-bootstrap")  # also the file that is locked while .venv changes
STAMP = os.path.join(VENV, "complete.json")
# Not sys.executable, which may lie in the .venv that is about to be made anew.
INTERPRETER = os.path.realpath(sys.executable)
OLDEST = (3, 11)
AGAIN = "Then run the same command again."
PIP = [
    *(PYTHON, "-m", "pip", "install", "--no-deps", "--no-user", "--quiet"),
    *("--no-input", "--disable-pip-version-check", "--root-user-action=ignore"),
]
UV = [
    *(os.path.join(VENV, "bin", "uv"), "pip", "install", "--no-deps"),
    *("--quiet", "--offline", "--no-cache", "--no-config"),
]
# One for each processor; beyond 8 the servers of the tests are what is waited for. `-n 0` tests in one process.
# In the order of their names: xdist's own begins with the files of the most tests and ends with those of one long one.
WORKERS = ["-n", "auto", "--maxprocesses", "8", "--dist", "loadfile", "--no-loadscope-reorder"]
# What each verb runs, and the lock it needs.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "realise": ("base", [HERMETIC, "realise", os.path.join(ROOT, "recipes", "tiny_qwen3.py")]),
    "hermetic": ("base", [HERMETIC]),
    "test": ("dev", [PYTHON, "-m", "pytest", "--rootdir", ROOT, *WORKERS]),
    "python": ("dev", [PYTHON]),
}


class Stop(Exception):  # noqa: N818  # the user's to mend, not a fault of the program
    """What happened, and what to do about it."""


def main(arguments: Sequence[str]) -> int:
    """Does not return once everything is in place: this process becomes the command."""
    verb = arguments[0] if arguments else "realise"
    if verb in {"-h", "--help", "help"}:
        say((__doc__ or "").strip())
        return 0
    if verb not in COMMANDS:
        say(f"bootstrap.py has no command {verb!r}; there are {', '.join(COMMANDS)}. See --help.")
        return 2
    if not sys.platform.startswith("linux"):
        raise Stop("hermetic builds in Linux namespaces, and this is not Linux.")
    lock, command = COMMANDS[verb]
    set_up(lock)
    if verb == "test":
        os.chdir(ROOT)
    return os.execve(command[0], [*command, *arguments[1:]], environment())  # noqa: S606


def environment() -> dict[str, str]:
    """Ours, without what would point another interpreter at another installation."""
    dropped = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def set_up(lock: str) -> None:
    """Makes the system hold what `SYSTEM` says and `.venv` what `requirements/<lock>.txt` says."""
    if is_complete(lock) and not missing(SYSTEM):
        return
    with exclusive():
        install_system_packages(missing(SYSTEM))
        if is_complete(lock):  # another run has done it while we waited
            return
        keep = is_complete("base")
        forget_stamp()  # from here to the new stamp an interruption means: start afresh
        if not keep:
            make_venv()
        install(lock)
        if lock == "dev":
            install_what_tests_like()
        write_stamp(lock)


def fingerprint(lock: str) -> str:
    """Changes whenever `.venv` must: another lock, project metadata, interpreter or place."""
    digest = hashlib.sha256()
    for name in (f"requirements/{lock}.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    digest.update(f"{ROOT}\0{INTERPRETER}\0{sys.version}".encode())
    return digest.hexdigest()


def is_complete(lock: str) -> bool:
    """Whether `.venv` was finished for this lock, or for `dev`, which has everything of `base`."""
    try:
        with open(STAMP, encoding="utf-8") as file:
            done = json.load(file)
    except (OSError, ValueError):
        return False
    return any(done.get(name) == fingerprint(name) for name in {lock, "dev"}) and os.path.exists(PYTHON)


def write_stamp(lock: str) -> None:
    partial = STAMP + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump({lock: fingerprint(lock)}, file)
    os.replace(partial, STAMP)


def forget_stamp() -> None:
    if os.path.exists(STAMP):
        os.unlink(STAMP)


@contextmanager
def exclusive() -> Iterator[None]:
    """One process at a time beyond this point, and only in a `.venv` that this script made."""
    try:
        os.makedirs(VENV, exist_ok=True)
        if os.listdir(VENV) and not os.path.exists(MARKER):
            raise Stop(f"{VENV} was not made by bootstrap.py. Move it away. {AGAIN}")
        marker = os.open(MARKER, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise Stop(
            f"Cannot write {VENV}: {error.strerror}. The checkout must be writable, to be set up once."
        ) from error
    try:
        wait_for(marker)
        # A pip that outlives us, if we are killed, keeps the lock: nobody sweeps the folder that it still fills.
        os.set_inheritable(marker, True)
        yield
    finally:
        os.close(marker)


def wait_for(marker: int) -> None:
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Another bootstrap.py is setting this checkout up; waiting for it.")
        fcntl.flock(marker, fcntl.LOCK_EX)


def make_venv() -> None:
    """An empty virtual environment, where one may lie half made; the locked marker stays."""
    for entry in list(os.scandir(VENV)):
        if entry.path == MARKER:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    run([INTERPRETER, "-m", "venv", VENV], f"Python could not make a virtual environment in {VENV}.")


def install(lock: str) -> None:
    """The locked wheels, then this checkout itself, in place. Only the first step needs an index."""
    say(f"Installing what requirements/{lock}.txt locks into {VENV}")
    path = os.path.join(ROOT, "requirements", f"{lock}.txt")
    run(
        [*PIP, "--require-hashes", "--only-binary=:all:", "--requirement", path],
        "pip could not install the locked packages; its own words are above. Where a package index is not reached "
        f"directly, pip's configuration says how: PIP_INDEX_URL, PIP_PROXY, PIP_CERT or a pip.conf. {AGAIN}",
    )
    # The build backend is among the wheels, and so is uv, whose start script imports less than pip's (`re`: 4 ms).
    run(
        [*UV, "--no-build-isolation", "--python", PYTHON, "--editable", ROOT],
        f"uv could not install hermetic itself from {ROOT}.",
    )


def missing(packages: dict[str, Callable[[], bool]]) -> list[str]:
    return [name for name, is_there in packages.items() if not is_there()]


def find(program: str) -> str | None:
    """Where a program is, also in the folders that an ordinary user's PATH leaves out."""
    folders = [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
    return shutil.which(program, path=os.pathsep.join(folders))


def has_bubblewrap() -> bool:
    return find("bwrap") is not None


def has_busybox() -> bool:
    return find("busybox") is not None


def has_certificates() -> bool:
    """Whether TLS has any authority to trust; Debian's pip brings none of its own."""
    paths = ssl.get_default_verify_paths()
    files = (paths.cafile, "/etc/ssl/certs/ca-certificates.crt")
    if any(file and os.path.exists(file) for file in files):
        return True
    return bool(paths.capath) and any(name.endswith(".0") for name in os.listdir(paths.capath))


def has_ensurepip() -> bool:
    return importlib.util.find_spec("ensurepip") is not None


# Debian's name of a package, and how to see that what it brings is there.
SYSTEM: dict[str, Callable[[], bool]] = {
    "bubblewrap": has_bubblewrap,
    "ca-certificates": has_certificates,
    # python3.X-venv and not python3-venv, because the interpreter that runs this may not be the default one.
    f"python3.{sys.version_info[1]}-venv": has_ensurepip,
}
# Tests that need one of these skip themselves without it.
FOR_TESTS: dict[str, Callable[[], bool]] = {"busybox-static": has_busybox}


def install_system_packages(names: list[str]) -> None:
    """apt-get's work, as root or through a sudo that asks nothing; else the command for the user to run."""
    if not names:
        return
    wanted = " ".join(names)
    apt = find("apt-get")
    if apt is None:
        raise Stop(f"Missing, by Debian's names: {wanted}; and there is no apt-get to install it. {AGAIN}")
    prefix = privilege()
    if prefix is None:
        by_hand = f"sudo apt-get update && sudo apt-get install --yes {wanted}"
        raise Stop(f"Missing system packages, which only root can install:\n\n    {by_hand}\n\n{AGAIN}")
    say(f"Installing with apt-get: {wanted}")
    # `env`, because sudo keeps no variables. The time-out is for another apt-get at work.
    quiet = ["-qq", "-o", "Dpkg::Use-Pty=0"]
    apt_get = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", apt, *quiet, "-o", "DPkg::Lock::Timeout=600"]
    # Package lists that can't be brought up to date may still be good enough; if they are not, `install` fails.
    subprocess.run([*apt_get, "update"], env=environment(), stdout=sys.stderr, check=False)
    run(
        [*apt_get, "install", "--yes", "--no-install-recommends", *names],
        f"apt-get could not install {wanted}; its own words are above. {AGAIN}",
    )


def install_what_tests_like() -> None:
    names = missing(FOR_TESTS)
    try:
        install_system_packages(names)
    except Stop as stop:
        say(f"Going on without {' '.join(names)}; some tests will be skipped. {stop}")


def privilege() -> list[str] | None:
    """What goes before a command that needs root; None when nothing would do without asking for a password."""
    if os.geteuid() == 0:
        return []
    sudo = find("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def run(command: list[str], failure: str) -> None:
    """One step of the set-up, its output on stderr. Raises `Stop` with `failure` and what was run."""
    # close_fds=False hands on the locked marker and nothing else: every other descriptor closes on exec.
    done = subprocess.run(command, env=environment(), stdout=sys.stderr, close_fds=False, check=False)
    if done.returncode != 0:
        raise Stop(f"{failure}\n(exit status {done.returncode}: {shlex.join(command)})")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def guarded(arguments: Sequence[str]) -> int:
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        say(f"hermetic needs Python 3.11 or newer, and {sys.executable} is {version}.")
        say("Debian 12, Ubuntu 24.04 and their successors have it; run this file with a newer interpreter.")
        return 4
    try:
        return main(arguments)
    except Stop as stop:
        say(f"bootstrap.py: {stop}")
        return 4
    except KeyboardInterrupt:
        say("\nbootstrap.py: interrupted. Run the same command again.")
        return 130


if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:]))
