"""What a stage may use, from what its recipe says; and how a stage that used more is told to its author."""

from __future__ import annotations

import os
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Stage
from hermetic.sandbox.plan import Limits
from hermetic.sandbox.runner import Exit

__all__ = ["exceeded", "known", "limits_of", "require_disk"]

_MIB: Final = 1 << 20
_PROCESSES: Final = 8192  # more than a builder on a large machine has, and a fork bomb ends before the machine does
_NO_KEY: Final = "it is not part of the key"


def limits_of(stage: Stage) -> Limits:
    """The limits of one attempt at `stage`. Those of a `Harvest` are its own affair."""
    return Limits(
        memory_mb=stage.memory_limit_mb,
        processes=stage.processes or _PROCESSES,
        wall_s=stage.timeout or None,
        silence_s=stage.silence or None,
        shm_mb=stage.shm_mb,
        disk_mb=stage.disk_mb or None,
    )


def require_disk(stage: Stage, name: str, folder: str) -> None:
    """Raises `HermeticError` (environment/disk-space) if there is less room in `folder` than the stage declares."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize // _MIB
    if free < stage.disk_mb:
        message = f"stage {name!r} needs {stage.disk_mb} MiB of disk, and {free} MiB are free under {folder}"
        hint = "hermetic gc makes room; another store is chosen with --store or HERMETIC_STORE"
        raise HermeticError(
            Domain.ENVIRONMENT, "disk-space", message, hint=hint, data={"wanted_mb": stage.disk_mb, "free_mb": free}
        )


def exceeded(stage: Stage, name: str, ended: Exit) -> HermeticError | None:
    """The error of a failed stage that used more memory or disk than it may; None if it did not."""
    if ended.oom:
        return _out_of_memory(stage, name, ended)
    if ended.over_disk:
        used = ended.usage.disk if ended.usage is not None else None
        held = f": its workspace held {_mib(used)}" if used else ""
        message = f"stage {name!r} reached its limit of {stage.disk_mb} MiB of disk{held}"
        hint = f"raise the stage's disk_mb; {_NO_KEY}"
        return HermeticError(Domain.BUILD, "out-of-disk", message, hint=hint, data=known(ended))
    return None


def known(ended: Exit) -> dict[str, dict[str, object]]:
    """What is worth keeping of an attempt: what it used, and what held its limits."""
    used = ended.usage.as_json() if ended.usage is not None else {}
    return {"used": {**used, "limited_by": ended.limited_by}}


def _out_of_memory(stage: Stage, name: str, ended: Exit) -> HermeticError:
    peak = ended.usage.memory if ended.usage is not None else None
    had = f", with {_mib(peak)} in use when last looked at" if peak else ""
    if stage.memory_limit_mb is None:
        message = f"stage {name!r} was killed because this machine ran out of memory{had}"
        hint = f"set the stage's memory_mb to what it needs ({_NO_KEY}): then fewer stages run beside it"
    else:
        message = f"stage {name!r} ran out of memory: its limit is {stage.memory_limit_mb} MiB{had}"
        hint = f"raise the stage's memory_mb; {_NO_KEY}"
    return HermeticError(Domain.BUILD, "out-of-memory", message, hint=hint, data=known(ended))


def _mib(count: int) -> str:
    return f"{count / _MIB:,.0f} MiB"
