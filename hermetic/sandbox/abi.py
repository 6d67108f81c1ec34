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
    "ENV",
    "ETC",
    "FOLDERS",
    "GID",
    "HOME",
    "HOST_NAME",
    "IN",
    "LIMITS",
    "MASKED",
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
CWD: Final = TMP
FOLDERS: Final = (BUILD, ENV, "/etc", "/var")
WORKSPACE_READ_ONLY: Final = ("in", "program", "stage.json")
WORKSPACE_WRITABLE: Final = ("out", "tmp", "home")

UID: Final = 1000
GID: Final = 100
HOST_NAME: Final = "localhost"
UMASK: Final = 0o022
SHM_MB: Final = 1024

VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "HOME": HOME,
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "build",
        "PATH": "/build/env/wheels/bin:/build/env/python/bin:/usr/local/bin:/usr/bin:/bin",
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

# Files of /proc that a pid namespace does not hide. Each becomes an empty file, except where programs parse it.
MASKED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000000\n",
        "/proc/cmdline": "\n",
        "/proc/keys": "",
        "/proc/key-users": "",
        "/proc/kcore": "",
        "/proc/kmsg": "",
        "/proc/kallsyms": "",
        "/proc/modules": "",
        "/proc/config.gz": "",
        "/proc/timer_list": "",
        "/proc/sched_debug": "",
        "/proc/latency_stats": "",
        "/proc/diskstats": "",
        "/proc/partitions": "",
        "/proc/swaps": "",
        "/proc/interrupts": "",
        "/proc/softirqs": "",
        "/proc/iomem": "",
        "/proc/ioports": "",
    }
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
        "NOFILE": (65536, 65536),
        "RSS": (-1, -1),
        "STACK": (8 << 20, -1),
    }
)
