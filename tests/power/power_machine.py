"""File systems on a disk that writes everything down, and on what a power loss leaves of it.

Everything is mounted in a mount namespace of the process' own (`enter`), so nothing stays mounted whatever ends it.
Needs root, loop devices, FUSE and a ``mkfs`` of the kind.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SEARCH = [str(REPOSITORY), *(str(REPOSITORY / "tests" / name) for name in ("power", "store", "torture"))]
SIZE = 320 << 20  # what mkfs.xfs wants at least, and a little
# How each file system is made and mounted. A short commit interval makes more different states in the same time.
KINDS: dict[str, tuple[list[str], str]] = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"], "commit=1"),
    "xfs": (["mkfs.xfs", "-q", "-K"], "rw"),
    "btrfs": (["mkfs.btrfs", "-q", "-K"], "commit=1"),
}
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _PR_SET_PDEATHSIG = 0x20000, 0x4000, 0x40000, 1


def lacking(kinds: list[str]) -> str:
    """Why this machine cannot do it; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    for device in ("/dev/loop-control", "/dev/fuse"):
        if not os.path.exists(device):
            return f"needs {device}"
    known = Path("/proc/filesystems").read_text().split()
    for kind in kinds:
        if shutil.which(KINDS[kind][0][0]) is None:
            return f"needs {KINDS[kind][0][0]}"
        if kind not in known:
            return f"needs a kernel with {kind}"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError, AttributeError):
        return "needs mfusepy and libfuse"
    return ""


def enter() -> None:
    """Mount for this process and its children only, from here on."""
    if _LIBC.unshare(_CLONE_NEWNS) or _LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def dies_with_us() -> None:
    """For a child before it executes: nothing of it outlives this process."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def make(kind: str, image: Path) -> None:
    """A new file system in the file `image`."""
    with open(image, "wb") as file:
        file.truncate(SIZE)
    subprocess.run([*KINDS[kind][0], str(image)], check=True, capture_output=True)


@contextmanager
def mounted(kind: str, image: Path, folder: Path) -> Iterator[None]:
    """`image` mounted at `folder` through a loop device, which recovers what a power loss left."""
    subprocess.run(
        ["mount", "-t", kind, "-o", f"loop,{KINDS[kind][1]}", str(image), str(folder)], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@contextmanager
def recorded(image: Path, log: Path, folder: Path) -> Iterator[Path]:
    """A disk at `folder`/disk that holds `image`, and changes it, while `log` is written; the file for marks."""
    server = subprocess.Popen(
        [sys.executable, str(HERE / "power_disk.py"), str(image), str(log), str(folder)],
        env=environment(),
        stdout=subprocess.PIPE,
        preexec_fn=dies_with_us,  # noqa: PLW1509
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n", "the disk could not be mounted"
        yield folder / "mark"
        # Lazily: a loop device may hold the disk a moment longer than its file system; the server ends when none does.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
        assert server.wait() == 0
    finally:
        server.kill()
        server.communicate()


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(SEARCH)} | more
