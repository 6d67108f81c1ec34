"""Ways to be somebody else, to see others, and to learn who and where we are."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import getpass
import grp
import locale
import os
import pwd
import signal
import socket
import sys
import time

from probe import FACTS, LIBC, check, probe, read, refused, require, syscall

NAMESPACES = {
    "user": 0x10000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}


@probe
def user_and_groups() -> object:
    saw = (*os.getresuid(), *os.getresgid(), *os.getgroups())
    return require(set(saw[:3]) == {1000} and set(saw[3:]) == {100}, saw)


@probe
def another_user() -> object:
    return [
        refused(lambda: os.setuid(0), errno.EPERM, errno.EINVAL),
        refused(lambda: os.setresuid(0, 0, 0), errno.EPERM, errno.EINVAL),
        refused(lambda: os.setgid(0), errno.EPERM, errno.EINVAL),
        refused(lambda: os.setgroups([0]), errno.EPERM),
    ]


@probe
def capabilities() -> object:
    held = [line for pid in ("self", "1") for line in read(f"/proc/{pid}/status").splitlines() if line[:3] == "Cap"]
    return require(all(int(line.split()[1], 16) == 0 for line in held), held)


@probe
def privileges_by_exec() -> object:
    lines = [line for pid in ("self", "1") for line in read(f"/proc/{pid}/status").splitlines()]
    said = [line.split()[1] for line in lines if line.startswith("NoNewPrivs")]
    return require(said == ["1", "1"], said)


@probe
def an_unfiltered_first_process() -> object:
    """The first process could be traced into making the calls that the filter refuses us."""
    said = [line for line in read("/proc/1/status").splitlines() if line.startswith("Seccomp:")]
    return require(said == ["Seccomp:\t2"], said)


@probe
def namespaces_of_our_own() -> object:
    allowed = (errno.EPERM, errno.ENOSPC, errno.EINVAL)
    return [refused(lambda flag=flag: check(LIBC.unshare(flag)), *allowed) for flag in NAMESPACES.values()]


@probe
def a_process_in_a_new_user_namespace() -> object:
    if os.uname().machine != "x86_64":
        return "covered by unshare"
    return refused(lambda: syscall(56, 220, NAMESPACES["user"] | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM, errno.ENOSPC)


@probe
def namespaces_of_the_first_process() -> object:
    same = []
    for name in NAMESPACES:
        try:
            descriptor = os.open(f"/proc/1/ns/{name}", os.O_RDONLY)
        except OSError:
            continue
        same.append(refused(lambda: check(LIBC.setns(descriptor, 0)), errno.EPERM, errno.EINVAL))  # noqa: B023
        os.close(descriptor)
    return same


@probe
def user_ids_mapped_anew() -> object:
    def write() -> None:
        with open("/proc/self/uid_map", "w", encoding="ascii") as stream:
            stream.write("0 0 1")

    return refused(write, errno.EPERM, errno.EACCES)


@probe
def user_names() -> object:
    saw = [entry.pw_name for entry in pwd.getpwall()] + [entry.gr_name for entry in grp.getgrall()]
    return require(saw == ["root", "build", "nobody", "root", "build", "nogroup"], saw)


@probe
def the_user_who_started_it() -> object:
    saw = (getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name, os.path.expanduser("~"))
    return require(saw == ("build", "build", "/build/home"), saw)


@probe
def variables() -> object:
    saw = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return require(saw == {**FACTS["variables"], "PWD": "/build/tmp"}, saw)


@probe
def a_secret_in_the_variables() -> object:
    return require(FACTS["secret"] not in str(os.environ), "the secret")


@probe
def the_hosts_name() -> object:
    saw = (socket.gethostname(), os.uname().nodename, socket.getfqdn(), read("/proc/sys/kernel/hostname").strip())
    return require(set(saw) == {"localhost"}, saw)


@probe
def the_hosts_domain() -> object:
    saw = read("/proc/sys/kernel/domainname").strip()
    return require(saw == "(none)", saw)


@probe
def time_zone() -> object:
    saw = (time.tzname, time.timezone, os.path.exists("/etc/localtime"), os.path.exists("/etc/timezone"))
    return require(saw == (("UTC", "UTC"), 0, False, False), saw)


@probe
def language() -> object:
    locale.setlocale(locale.LC_ALL, "")
    saw = (locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding(), locale.getpreferredencoding())
    return require(saw[0] in {"C.UTF-8", "C"} and saw[1:] == ("utf-8", "utf-8"), saw)


@probe
def umask() -> object:
    saw = os.umask(0o77)
    os.umask(saw)
    return require(saw == 0o022, oct(saw))


@probe
def working_folder() -> object:
    return require(os.getcwd() == "/build/tmp", os.getcwd())


@probe
def import_path() -> object:
    foreign = [entry for entry in sys.path if not entry.startswith(("/build/env/", "/build/program"))]
    return require(not foreign, foreign)


@probe
def standard_input() -> object:
    return require(os.read(0, 10) == b"" and os.readlink("/proc/self/fd/0") == "/dev/null", "input")


@probe
def the_callers_terminal() -> object:
    return refused(lambda: os.open("/dev/tty", os.O_RDWR), errno.ENXIO, errno.EIO)


@probe
def keys_typed_into_the_terminal() -> object:
    tiocsti = 0x5412
    return [
        refused(lambda at=at: fcntl.ioctl(at, tiocsti, b"x"), errno.ENOTTY, errno.EIO, errno.EPERM) for at in (0, 1, 2)
    ]


@probe
def the_callers_session() -> object:
    saw = (os.getsid(0), os.getppid())
    return require(saw[0] != 0 and saw[1] == 1, saw)


@probe
def processes_of_others() -> object:
    names = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    lines = {pid: read(f"/proc/{pid}/cmdline") for pid in names}
    foreign = {pid: line for pid, line in lines.items() if pid not in {1, os.getpid()}}
    return require(not foreign, foreign)


@probe
def a_signal_to_a_process_of_the_host() -> object:
    return refused(lambda: os.kill(FACTS["host_pid"], 0), errno.ESRCH)


@probe
def a_descriptor_of_a_process_of_the_host() -> object:
    return refused(lambda: os.pidfd_open(FACTS["host_pid"]), errno.ESRCH)


@probe
def tracing_a_process_of_the_host() -> object:
    return refused(lambda: check(LIBC.ptrace(16, FACTS["host_pid"], None, None)), errno.ESRCH, errno.EPERM)


@probe
def memory_of_a_process_of_the_host() -> object:
    buffer = ctypes.create_string_buffer(64)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    call = (310, 270, FACTS["host_pid"], vector, ctypes.c_long(1), vector, ctypes.c_long(1), ctypes.c_long(0))
    return refused(lambda: syscall(*call), errno.ESRCH, errno.EPERM)


@probe
def the_host_name_set() -> object:
    return refused(lambda: socket.sethostname("other"), errno.EPERM)


@probe
def the_program_that_runs() -> object:
    saw = os.readlink("/proc/self/exe")
    return require(saw == FACTS["interpreter"], saw)
