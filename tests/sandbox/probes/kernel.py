"""Ways to what the whole machine shares: kernel state, keyrings, IPC, control groups."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import time

from probe import FACTS, LIBC, Leak, check, probe, read, refused, require, syscall

IPC_AND_PID = ("/proc/sys/fs/mqueue/", "/proc/sys/kernel/msg", "/proc/sys/kernel/shm", "/proc/sys/kernel/sem")
OF_OUR_NAMESPACES = (
    *IPC_AND_PID,
    "/proc/sys/kernel/auto_msgmni",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/pid_max",
)


@probe
def the_boot_id() -> object:
    saw = read("/proc/sys/kernel/random/boot_id")
    return require(saw.strip() != FACTS["boot_id"], saw)


@probe
def the_kernels_command_line() -> object:
    return require(read("/proc/cmdline").strip() == "", read("/proc/cmdline"))


@probe
def masked_files_of_proc() -> object:
    """What this kernel has of them is empty."""
    wrong = {}
    for path in FACTS["masked"]:
        try:
            text = read(path)
        except OSError:
            continue
        if text.strip() not in {"", "(none)", "00000000-0000-4000-8000-000000000000"}:
            wrong[path] = text[:60]
    return require(not wrong, wrong)


@probe
def masked_folders_of_proc() -> object:
    full = [path for path in FACTS["emptied"] if os.path.isdir(path) and os.listdir(path)]
    return require(not full, full)


@probe
def anything_unknown_in_proc() -> object:
    """A file that a new kernel adds has to be looked at by somebody."""
    known = {
        "cgroups",
        "cpuinfo",
        "crypto",
        "devices",
        "execdomains",
        "filesystems",
        "loadavg",
        "meminfo",
        "misc",
        "mounts",
        "net",
        "self",
        "stat",
        "sys",
        "sysvipc",
        "thread-self",
        "uptime",
        "version",
        "version_signature",
    }
    masked = {os.path.basename(path) for path in (*FACTS["masked"], *FACTS["emptied"])}
    unknown = {name for name in os.listdir("/proc") if not name.isdigit()} - known - masked
    return require(not unknown, sorted(unknown))


@probe
def kernel_settings() -> object:
    """Only those that belong to our own namespaces may be written, and the test looks that they are."""
    written = []
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = f"{folder}/{name}"
            if not path.startswith(OF_OUR_NAMESPACES) and _rewritten(path):
                written.append(path)
    return require(not written, written)


def _rewritten(path: str) -> bool:
    try:
        value = read(path)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


@probe
def settings_of_our_own_namespaces() -> object:
    """If these can be set at all, the host does not see it (the test compares afterwards)."""
    changed = []
    for name in ("msgmax", "shmmni"):
        try:
            with open(f"/proc/sys/kernel/{name}", "w", encoding="ascii") as stream:
                stream.write("4321")
            changed.append(name)
        except OSError:
            continue
    return changed


@probe
def the_kernel_log() -> object:
    return refused(lambda: syscall(103, 116, 3, ctypes.create_string_buffer(4096), 4096), errno.EPERM)


@probe
def a_keyring_of_the_caller() -> object:
    search = 10
    return refused(lambda: syscall(250, 219, search, -3, b"user", FACTS["keyring_key"].encode(), 0), errno.EPERM)


@probe
def a_new_key() -> object:
    return refused(lambda: syscall(248, 217, b"user", b"planted", b"x", ctypes.c_size_t(1), -4), errno.EPERM)


@probe
def a_bpf_program() -> object:
    return refused(lambda: syscall(321, 280, 0, b"\0" * 64, 64), errno.EPERM)


@probe
def performance_counters_of_the_machine() -> object:
    return refused(lambda: syscall(298, 241, b"\0" * 128, -1, 0, -1, 0), errno.EPERM)


@probe
def page_faults_in_user_space() -> object:
    return refused(lambda: syscall(323, 282, 0), errno.EPERM)


@probe
def a_kernel_module() -> object:
    return refused(lambda: syscall(175, 105, b"", ctypes.c_size_t(0), b""), errno.EPERM, errno.ENOSYS)


@probe
def a_reboot() -> object:
    return refused(lambda: syscall(169, 142, 0xFEE1DEAD, 672274793, 0, None), errno.EPERM)


@probe
def another_kernel() -> object:
    return refused(lambda: syscall(246, 104, 0, 0, None, 0), errno.EPERM)


@probe
def the_clock_set() -> object:
    return refused(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()), errno.EPERM)


@probe
def swap_quota_and_accounting() -> object:
    return [
        refused(lambda: syscall(167, 224, b"/build/tmp", 0), errno.EPERM),
        refused(lambda: syscall(179, 60, 0, b"/build/tmp", 0, None), errno.EPERM),
        refused(lambda: syscall(163, 89, b"/build/tmp/x"), errno.EPERM),
    ]


@probe
def the_other_system_call_tables() -> object:
    """The x32 calls of x86-64 would go past a filter that knows only the ordinary numbers."""
    return refused(lambda: syscall(0x40000000 + 39, 0x40000000 + 172), errno.ENOSYS)


@probe
def system_v_shared_memory() -> object:
    LIBC.shmat.restype = ctypes.c_ssize_t
    return refused(lambda: check(LIBC.shmat(FACTS["shm_id"], None, 0)), errno.EINVAL, errno.EIDRM)


@probe
def system_v_listings() -> object:
    lines = [line for name in ("shm", "sem", "msg") for line in read(f"/proc/sysvipc/{name}").splitlines()[1:]]
    return require(not lines, lines)


@probe
def control_groups() -> object:
    paths = {line.split(":", 2)[2] for line in read("/proc/self/cgroup").splitlines()}
    return require(paths <= {"/"}, paths)


@probe
def the_control_group_file_system() -> object:
    kinds = {line.split(" - ")[1].split()[0] for line in read("/proc/self/mountinfo").splitlines()}
    mounted = kinds & {"cgroup", "cgroup2", "sysfs", "debugfs", "tracefs", "securityfs", "bpf", "configfs"}
    refused(lambda: check(LIBC.mount(b"c", b"/build/tmp", b"cgroup2", 0, None)), errno.EPERM)
    return require(not mounted, mounted)


@probe
def core_dumps() -> object:
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    return require(limits == (0, 0), limits)


@probe
def limits_as_fixed() -> object:
    """Each is what `abi.LIMITS` says, or less where this machine grants less."""
    wrong = {}
    for name, (soft, hard) in FACTS["limits"].items():
        saw = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        if not (_within(saw[0], soft) and _within(saw[1], hard)):
            wrong[name] = saw
    return require(not wrong, wrong)


def _within(saw: int, wanted: int) -> bool:
    return wanted == -1 or (saw != -1 and saw <= wanted)


@probe
def limits_raised() -> object:
    def raise_it() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))

    try:
        raise_it()
    except ValueError as error:
        return str(error)
    raise Leak("raised")


@probe
def real_time_priority() -> object:
    return refused(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), errno.EPERM)


@probe
def a_better_priority() -> object:
    return refused(lambda: os.nice(-5), errno.EPERM, errno.EACCES)


@probe
def safety_from_the_memory_killer() -> object:
    def lower() -> None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write("-1000")

    return refused(lower, errno.EACCES, errno.EPERM)


@probe
def signals_ignored_by_the_caller() -> object:
    ignored = {name: line for name, line in _status().items() if name in {"SigIgn", "SigBlk"} and int(line, 16)}
    python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)  # which the interpreter ignores itself
    foreign = {name: line for name, line in ignored.items() if int(line, 16) & ~python}
    return require(not foreign, foreign)


def _status() -> dict[str, str]:
    pairs = (line.partition(":") for line in read("/proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in pairs}
