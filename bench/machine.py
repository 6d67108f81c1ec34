"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

__all__ = ["describe"]

_PROGRAMS = {"nix": "--version", "make": "--version", "bwrap": "--version", "git": "--version"}


def describe(repository: Path) -> dict[str, object]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _first_line(["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=12"]),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "programs": {name: _first_line([name, flag]) for name, flag in _PROGRAMS.items()},
        "packages": {name: metadata.version(name) for name in ("hermetic-engines", "pydantic", "click", "uv")},
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
