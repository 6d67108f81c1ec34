"""What happens in the child between fork and exec: limits, a clean signal table, and for root a drop to another user.

Started by root, bubblewrap would map the build's user to root of this machine, who may write kernel settings through
``/proc/sys``. So root first binds every path that the stage needs to a neutral place in a mount namespace of its own
(the build's user could not walk to a store below ``/root``), and then becomes `BUILD_UID` for good.

Everything that can be prepared before the fork is: in the child only system calls remain, because other threads of
the driver may have held any lock when it was forked.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hermetic.sandbox import abi, guard
from hermetic.sandbox.plan import Limits

__all__ = [
    "BUILD_GID",
    "BUILD_UID",
    "NEUTRAL",
    "Child",
    "drops_privileges",
    "granted_limits",
    "limit_processes",
    "may_mount",
    "neutral",
    "resource_limits",
]

BUILD_UID: Final = 64733  # no account of Debian, systemd or Nix lies here, and containers of 65536 ids still have it
BUILD_GID: Final = 64733
NEUTRAL: Final = "/tmp"  # noqa: S108  # covered by a private tmpfs

_CAP_SYS_ADMIN: Final = 21
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUTS: Final = 0x04000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG: Final = 1
_CLONE_INTO_CGROUP: Final = 0x200000000
_CLONE3: Final = 435  # on every architecture
_KEYCTL: Final = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MACHINE: Final = os.uname().machine
_COUNTED_APART: Final = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (5, 14)


def drops_privileges() -> bool:
    """Whether stages must be started under another user: we are root of this machine, not of a user namespace.

    Root of a namespace that does not have `BUILD_UID` has no power over the kernel's settings, and stays.
    """
    return os.geteuid() == 0 and _is_mapped(BUILD_UID)


def may_mount() -> bool:
    """Whether we hold CAP_SYS_ADMIN, which the root of many containers does not."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(held >> _CAP_SYS_ADMIN & 1)


def neutral(sources: Sequence[str]) -> dict[str, str]:
    """Where root's child sees each source."""
    return {source: f"{NEUTRAL}/{index}" for index, source in enumerate(sources)}


def _is_mapped(uid: int) -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        ranges = [[int(word) for word in line.split()] for line in lines]
    return any(first <= uid < first + count for first, _, count in ranges)


@dataclass(frozen=True)
class Child:
    """The work of one child. `report` is a pipe that says which step failed; `parent` is the driver's process id.

    `groups` are files to write "0" to, which moves the child into those control groups, `group` is a descriptor of the
    one it is to be born in; `afterwards` is the guard's.
    """

    sources: tuple[str, ...]
    limits: tuple[tuple[int, tuple[int, int]], ...]
    drop: bool
    report: int
    parent: int
    groups: tuple[str, ...] = ()
    group: int | None = None
    afterwards: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Fork once more: the parent stays as the stage's guard, the child goes on to exec bubblewrap."""
        guard.prepare(self.parent)
        mine = os.getpid()
        forked = os.fork() if self.group is None else _fork_into(self.group)
        if forked:
            guard.become_guard(forked, self.afterwards)
        self._prepare(mine)

    def _prepare(self, parent: int) -> None:
        self._do("join its control group", self._join)
        self._do("bind its inputs", self._bind)
        self._do("set its limits", self._limit)
        self._do("become the build's user", self._become)
        self._do("leave the caller's session", _isolate)
        if os.getppid() != parent:
            os._exit(1)

    def _do(self, step: str, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            os.write(self.report, f"{error.errno} {step}: {error}".encode())
            raise

    def _join(self) -> None:
        for file in self.groups:
            descriptor = os.open(file, os.O_WRONLY)
            os.write(descriptor, b"0")
            os.close(descriptor)

    def _bind(self) -> None:
        if not self.drop:
            return
        _check(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWUTS))
        _check(_LIBC.setdomainname(b"(none)", 6))  # bubblewrap sets the host name only
        _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        opened = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in self.sources]
        _mount(b"tmpfs", NEUTRAL.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0755,size=1m")
        for index, descriptor in enumerate(opened):
            place = f"{NEUTRAL}/{index}"
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.mkdir(place, 0o755)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
            _mount(f"/proc/self/fd/{descriptor}".encode(), place.encode(), None, _MS_BIND | _MS_REC, None)
            os.close(descriptor)

    def _limit(self) -> None:
        for which, pair in self.limits:
            resource.setrlimit(which, pair)
        os.umask(abi.UMASK)
        _be_first_to_go()

    def _become(self) -> None:
        if not self.drop:
            return
        os.setgroups([])
        os.setresgid(BUILD_GID, BUILD_GID, BUILD_GID)
        os.setresuid(BUILD_UID, BUILD_UID, BUILD_UID)


def _fork_into(group: int) -> int:
    """Fork, with the child born in that control group of version 2 (Linux 5.7); else it moves there.

    The C library does not know of such a child, which is why it may do nothing but system calls and exec.
    """
    words = (_CLONE_INTO_CGROUP, 0, 0, 0, int(signal.SIGCHLD), 0, 0, 0, 0, 0, group)
    arguments = (ctypes.c_uint64 * len(words))(*words)
    forked = int(_LIBC.syscall(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))
    if forked >= 0:
        return forked
    forked = os.fork()
    if forked == 0:
        descriptor = os.open("cgroup.procs", os.O_WRONLY, dir_fd=group)
        os.write(descriptor, b"0")
        os.close(descriptor)
    return forked


def _be_first_to_go() -> None:
    """When the machine itself runs out of memory, the kernel is to end a stage and not what it works for."""
    with suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR)
        if int(os.read(descriptor, 16)) < abi.OOM_SCORE:
            os.pwrite(descriptor, str(abi.OOM_SCORE).encode(), 0)
        os.close(descriptor)


def _isolate() -> None:
    """Keys of the caller's session would be readable; a kernel without keyrings has none to leave."""
    number = _KEYCTL.get(_MACHINE)
    if number is not None:
        _LIBC.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # After the change of user, which would clear it.
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))


_SIGNALS: Final = tuple(
    number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP) and number < 32
)


def resource_limits(limits: Limits, *, grouped: bool) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Limits for `setrlimit`, never above what the host grants.

    Without a control group (`grouped` false) memory is limited per process as ``RLIMIT_DATA``, which, unlike
    ``RLIMIT_AS``, does not count the address space that CUDA, torch and OpenVINO reserve without using it.
    """
    wanted = dict(abi.LIMITS)
    if not grouped and limits.memory_mb is not None:
        wanted["DATA"] = (limits.memory_mb << 20, limits.memory_mb << 20)
    if limits.file_bytes is not None:
        wanted["FSIZE"] = (limits.file_bytes, limits.file_bytes)
    return tuple(_granted(getattr(resource, f"RLIMIT_{name}"), pair) for name, pair in wanted.items())


def limit_processes(pid: int, most: int) -> bool:
    """Limit the processes of a stage whose first one is `pid`; whether that could be done.

    Its namespace counts them by themselves (Linux 5.14); set before the namespace is made, the limit would count
    whatever else its user runs.
    """
    if not _COUNTED_APART:
        return False
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
        most = _least(most, hard)
        resource.prlimit(pid, resource.RLIMIT_NPROC, (most, most))
    except (PermissionError, ProcessLookupError):
        return False
    return True


def granted_limits() -> dict[str, tuple[int, int]]:
    """`abi.LIMITS` by name, as far as the host grants them."""
    return {name: _granted(getattr(resource, f"RLIMIT_{name}"), pair)[1] for name, pair in abi.LIMITS.items()}


def _granted(which: int, wanted: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    ceiling = resource.getrlimit(which)[1]
    hard = _least(wanted[1], ceiling)
    return which, (_least(wanted[0], hard), hard)


def _least(first: int, second: int) -> int:
    if resource.RLIM_INFINITY in (first, second):
        return second if first == resource.RLIM_INFINITY else first
    return min(first, second)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    _check(_LIBC.mount(source, target, kind, ctypes.c_ulong(flags), data), target)


def _check(result: int, what: bytes = b"") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what.decode(errors="replace"))
