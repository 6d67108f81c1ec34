"""Every constant that a stage can observe. A change of any value here is a new `ABI`, and so a new key for every stage.

The Nix driver runs stages under the same constants (`/build`, uid 1000, gid 100 are what its own sandbox has), which
is where those that look arbitrary come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = [
    "ABI",
    "BUILD",
    "CWD",
    "EMPTIED",
    "ENV",
    "ENV_PATH",
    "ETC",
    "FOLDERS",
    "GID",
    "HOME",
    "HOST_NAME",
    "IN",
    "LIMITS",
    "MASKED",
    "OOM_SCORE",
    "OUT",
    "PROGRAM",
    "SHM_MB",
    "STAGE",
    "SYMLINKS",
    "TMP",
    "UID",
    "UMASK",
    "VARIABLES",
    "WORKSPACE_READ_ONLY",
    "WORKSPACE_WRITABLE",
]

ABI: Final = 1

BUILD: Final = "/build"
IN: Final = "/build/in"
OUT: Final = "/build/out"
TMP: Final = "/build/tmp"
HOME: Final = "/build/home"
PROGRAM: Final = "/build/program"
STAGE: Final = "/build/stage.json"
ENV: Final = "/build/env"
ENV_PATH: Final = "/build/env/wheels/bin:/build/env/python/bin"
CWD: Final = TMP
FOLDERS: Final = (BUILD, ENV, "/etc", "/var")
WORKSPACE_READ_ONLY: Final = ("in", "program", "stage.json")
WORKSPACE_WRITABLE: Final = ("out", "tmp", "home")

UID: Final = 1000
GID: Final = 100
HOST_NAME: Final = "localhost"
UMASK: Final = 0o022
SHM_MB: Final = 1024
OOM_SCORE: Final = 500  # of 1000: to the kernel as if it used half of the machine's memory more

VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "HOME": HOME,
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "build",
        "PATH": f"{ENV_PATH}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "SOURCE_DATE_EPOCH": "315532800",  # 1980-01-01, the earliest that zip archives can hold
        "TMPDIR": TMP,
        "TZ": "UTC",
        "USER": "build",
    }
)

ETC: Final[Mapping[str, str]] = MappingProxyType(
    {
        "passwd": (
            "root:x:0:0:root:/build/home:/noshell\n"
            f"build:x:{UID}:{GID}:build:{HOME}:/noshell\n"
            "nobody:x:65534:65534:nobody:/:/noshell\n"
        ),
        "group": f"root:x:0:\nbuild:x:{GID}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
    }
)

SYMLINKS: Final[Mapping[str, str]] = MappingProxyType(
    {"/tmp": "build/tmp", "/var/tmp": "../build/tmp"}  # noqa: S108
)

# Files of /proc that a pid namespace does not hide and no program of ours reads. What is not there is not masked.
MASKED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000000\n",
        "/proc/sys/kernel/domainname": "(none)\n",
        "/proc/cmdline": "\n",
        **dict.fromkeys(
            (
                "/proc/apm",
                "/proc/bootconfig",
                "/proc/buddyinfo",
                "/proc/config.gz",
                "/proc/consoles",
                "/proc/diskstats",
                "/proc/dma",
                "/proc/fb",
                "/proc/interrupts",
                "/proc/iomem",
                "/proc/ioports",
                "/proc/kallsyms",
                "/proc/kcore",
                "/proc/key-users",
                "/proc/keys",
                "/proc/kmsg",
                "/proc/kpagecgroup",
                "/proc/kpagecount",
                "/proc/kpageflags",
                "/proc/latency_stats",
                "/proc/locks",
                "/proc/mdstat",
                "/proc/modules",
                "/proc/mtrr",
                "/proc/pagetypeinfo",
                "/proc/partitions",
                "/proc/sched_debug",
                "/proc/schedstat",
                "/proc/slabinfo",
                "/proc/softirqs",
                "/proc/swaps",
                "/proc/sysrq-trigger",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/vmallocinfo",
                "/proc/vmcore",
                "/proc/vmstat",
                "/proc/zoneinfo",
            ),
            "",
        ),
    }
)
# Folders of /proc that become empty: buses, drivers and mounted file systems of this machine.
EMPTIED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/driver",
    "/proc/dynamic_debug",
    "/proc/fs",
    "/proc/ide",
    "/proc/irq",
    "/proc/pressure",
    "/proc/scsi",
    "/proc/spl",
    "/proc/tty",
    "/proc/xen",
)

# Soft and hard limits, in the units of setrlimit(2); -1 is unlimited. Where the host allows less, less it is.
LIMITS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "AS": (-1, -1),
        "CORE": (0, 0),
        "CPU": (-1, -1),
        "DATA": (-1, -1),
        "FSIZE": (-1, -1),
        "MEMLOCK": (8 << 20, 8 << 20),
        "MSGQUEUE": (819200, 819200),
        "NICE": (0, 0),
        "NOFILE": (16384, 16384),
        "NPROC": (32768, 32768),
        "RSS": (-1, -1),
        "RTPRIO": (0, 0),
        "SIGPENDING": (16384, 16384),
        "STACK": (8 << 20, -1),
    }
)
