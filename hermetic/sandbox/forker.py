"""A small process that forks the driver's stages for it.

A fork of the driver costs 4 ms: its page tables are copied, and afterwards every page that it writes to, since the
guard of each stage is such a fork and keeps the old ones. So the driver forks once, and that process, which does
nothing else and so touches few pages, makes the guards. They are the *driver's* children (``CLONE_PARENT``): it waits
for them, and they hear of its death, as if it had forked them itself.

The forker holds no descriptor but its end of a socket, dies with the driver, and is never signalled by a terminal.
"""

from __future__ import annotations

import array  # noqa: F401  # which socket would import in the forker
import ctypes
import dataclasses
import fcntl
import gc
import marshal
import os
import signal
import socket
import warnings
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from hermetic.sandbox import launch

__all__ = ["Launched", "spawn"]

_CLONE_PARENT: Final = 0x8000
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MOST: Final = 250  # descriptors in one message; the kernel takes 253
_NUMBER: Final = 8  # bytes of a process id as it is told

_Streams = tuple[int, int, int]


@dataclasses.dataclass
class Launched:
    """A guard; `returncode` is None until who waited for it has set it. `report` is taken over."""

    pid: int
    report: int
    returncode: int | Any = None  # as `subprocess.Popen` has it

    def refused(self) -> str:
        """Why the program was never executed, in words that begin with the error's number; "" if it was.

        Waits until that is known, for which no process need have ended.
        """
        with open(self.report, "rb", closefd=False) as said:
            return said.read().decode(errors="replace")

    def close(self) -> None:
        os.close(self.report)


class _Forker:
    def __init__(self) -> None:
        self.driver = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with warnings.catch_warnings():
            # 3.12 warns of forking beside threads; no lock that one may hold is taken in the child.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            _serve(theirs.detach(), self.driver)
        theirs.close()
        self._socket = ours

    def ask(self, order: bytes, descriptors: Sequence[int]) -> int:
        """The id of the process that was made. Raises `OSError` when the forker has died."""
        told = os.memfd_create("hermetic", os.MFD_CLOEXEC)
        try:
            with open(told, "wb", closefd=False) as stream:
                stream.write(order)
            os.lseek(told, 0, os.SEEK_SET)  # the place is the reader's too
            socket.send_fds(self._socket, [b"."], [told, *descriptors])
        finally:
            os.close(told)
        answer = self._socket.recv(_NUMBER)
        if not answer:
            raise ConnectionResetError("the process that starts stages has died")
        return int.from_bytes(answer, "little")

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self.pid, 0)


_forker: _Forker | None = None


def spawn(command: list[str], streams: _Streams, keep: Sequence[int], child: launch.Child) -> Launched:
    """Start `command` in a new session with nothing open but `streams` and `keep`, under the numbers they have here.

    `streams` are standard input, output and error; for the first, less than zero means none. `child` is called before
    the program is executed, its `report` being this function's.

    Raises `OSError` when no process could be made.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = dataclasses.replace(child, report=writer)
        private = (writer,) if child.group is None else (writer, child.group)
        given = [number for number in (*streams, *private, *keep) if number >= 0]
        order = marshal.dumps((command, streams, tuple(keep), private, given, dataclasses.astuple(child)))
        if len(given) > _MOST:
            raise OSError("a stage has too many descriptors")
        return Launched(_ask(order, given), reader)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)


def _ask(order: bytes, descriptors: Sequence[int]) -> int:
    global _forker  # noqa: PLW0603  # one for the life of the process
    if _forker is None or _forker.driver != os.getpid():
        gc.freeze()  # a collection would write to every object, and so copy every page
        _forker = _Forker()
    try:
        return _forker.ask(order, descriptors)
    except OSError:
        _forker.close()
        _forker = None
        raise


def _serve(connection: int, driver: int) -> NoReturn:
    """The forker, from its first moment to its last."""
    try:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != driver:
            os._exit(1)
        gc.disable()
        signal.set_wakeup_fd(-1)  # the event loop's, and about to be closed
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        connection = _alone_with(connection)
        with socket.socket(fileno=connection) as orders:
            while True:
                _, descriptors, _, _ = socket.recv_fds(orders, 1, _MOST + 1)
                if not descriptors:
                    os._exit(0)
                made = _clone()
                if made == 0:
                    _begin(descriptors)
                orders.send(made.to_bytes(_NUMBER, "little") if made > 0 else b"")
                for descriptor in descriptors:
                    os.close(descriptor)
    finally:
        os._exit(1)


def _alone_with(connection: int) -> int:
    """Close everything else; locks of the driver must not live on here. Returns the new number, 3."""
    os.dup2(connection, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)
    os.set_inheritable(3, False)
    return 3


def _clone() -> int:
    """Fork a sibling. The C library does not know of it: what it does has to be system calls."""
    return int(_LIBC.syscall(_CLONE[os.uname().machine], _CLONE_PARENT | int(signal.SIGCHLD), 0, 0, 0, 0))


def _begin(descriptors: Sequence[int]) -> NoReturn:
    """In the new process: put every descriptor in its place, become the guard, and in its child execute the program."""
    report = -1
    try:
        with open(descriptors[0], "rb") as stream:
            command, streams, keep, private, given, fields = marshal.loads(stream.read())  # noqa: S302  # our own
        _place(descriptors[1:], given, private, streams, keep)
        child = launch.Child(*fields)
        report = child.report
        os.setsid()
        os.chdir("/")
        _call(child)
        os.execve(command[0], command, {})  # noqa: S606
    except OSError as error:
        if report >= 0:
            os.write(report, f"{error.errno} execute {error.filename}: {error.strerror}".encode())
    finally:
        os._exit(1)


def _call(child: launch.Child) -> None:
    try:
        child()
    except OSError:
        os._exit(1)  # which it has told itself


def _place(
    received: Sequence[int], given: Sequence[int], private: Sequence[int], streams: _Streams, keep: Sequence[int]
) -> None:
    """What came as `received` gets the numbers `given`, of which only `keep` and the streams outlive the program."""
    above = max(*given, *received, 3) + 1
    moved = {number: fcntl.fcntl(there, fcntl.F_DUPFD, above) for number, there in zip(given, received, strict=True)}
    os.closerange(3, above)
    if streams[0] < 0:
        moved[streams[0]] = os.open(os.devnull, os.O_RDONLY)
    for number in {*private, *keep}:
        os.dup2(moved[number], number, inheritable=number in keep)
    for number, wanted in enumerate(streams):
        os.dup2(moved[wanted], number)
    os.closerange(above, os.sysconf("SC_OPEN_MAX"))
