"""Whose something is that outlives a process: a name that tells whether the process is still the same."""

from __future__ import annotations

import os

__all__ = ["lives", "name"]


def name() -> str:
    """``PID-STARTED`` of this process: a process id may come again, with its start time it does not."""
    return f"{os.getpid()}-{_started(os.getpid())}"


def lives(owner: str) -> bool:
    """Whether the process of that `name` still runs. To be asked in the process namespace where it was made."""
    pid, _, started = owner.partition("-")
    return pid.isdigit() and started != "" and _started(int(pid)) == started


def _started(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
