"""The process between the driver and bubblewrap, which makes sure that nothing of a stage outlives either.

``bwrap --die-with-parent`` alone leaves a gap: for some milliseconds after bubblewrap has forked the stage's first
process, that process has not yet asked to die with bubblewrap, and a driver killed then leaves it running (seen:
`tests/sandbox/test_lifetime.py`). So bubblewrap's parent is a fork of the driver that does nothing but wait. It is a
"child subreaper": whatever loses its parent in the stage becomes its child, and it ends only when it has none left.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from typing import Final

__all__ = ["become_guard", "prepare"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_HEARD: Final = (signal.SIGTERM, signal.SIGCHLD)


def prepare(driver: int) -> None:
    """To be called in the forked child before it forks bubblewrap: from here on it hears of the driver's death."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _HEARD)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != driver:
        os._exit(1)


def become_guard(bubblewrap: int, afterwards: tuple[str, ...] = ()) -> None:
    """Wait for bubblewrap, or for SIGTERM; then kill and reap all that is left, and exit as bubblewrap did.

    Holds no descriptor: locks of the driver must not live on here. `afterwards` is a command that is run when it ended
    in any other way than well; a container engine has to be told that its container is no more.
    """
    gc.disable()  # a collection would copy the driver's whole heap
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    code = 1
    while True:
        told = signal.sigwait(_HEARD)
        if told == signal.SIGTERM:
            break
        ended = _reap(bubblewrap)
        if ended is not None:
            code = ended
            break
    while _kill_children():
        _wait_for_one()
    if afterwards and code:
        _run(afterwards)
        while _kill_children():
            _wait_for_one()
    os._exit(code)


def _run(command: tuple[str, ...]) -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        for wanted in range(3):
            assert os.open(os.devnull, os.O_RDWR) == wanted
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execv(command[0], command)  # noqa: S606
    finally:
        os._exit(1)


def _reap(bubblewrap: int) -> int | None:
    """Collect whoever has ended; bubblewrap's exit code if it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1 if code is None else code
        if pid == 0:
            return code
        if pid == bubblewrap:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def _kill_children() -> bool:
    """SIGKILL for every child; whether there is any, ended ones that were not collected included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
            children = [int(word) for word in stream.read().split()]
    except FileNotFoundError:
        children = _children_by_stat()
    for child in children:
        os.kill(child, signal.SIGKILL)
    return bool(children)


def _children_by_stat() -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stream:
                parent = stream.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append(int(name))
    return found


def _wait_for_one() -> None:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return
