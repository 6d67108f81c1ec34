"""Who uses which GPU: one lock file for each UUID, shared by all stores and users of this machine.

A store is the wrong place, because two stores would hand out the same GPU; so is a user's runtime folder. The first of
`_PLACES` that can be written to is taken. The locks are the kernel's: whoever dies, however it dies, frees its GPUs.
Containers that share GPUs must share the folder, and are told about it with ``HERMETIC_GPU_LOCKS``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox.gpu import Device

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["VARIABLE", "Lease", "folder", "lease"]

VARIABLE: Final = "HERMETIC_GPU_LOCKS"

# All local, gone after a reboot, and open to every user.
_PLACES: Final = ("/run/lock", "/var/lock", "/dev/shm", "/tmp")  # noqa: S108
_NAME: Final = "hermetic-gpus"


class Lease:
    """GPUs that are ours until `release`, or until this process ends."""

    def __init__(self, devices: tuple[Device, ...], locks: list[FileLock]) -> None:
        self.devices = devices
        self._locks = locks

    def release(self) -> None:
        for lock in self._locks:
            lock.release()
        self._locks = []


def lease(candidates: Iterable[Device], count: int) -> Lease | None:
    """`count` of `candidates` that nobody uses, or None, with nothing held. Does not wait.

    They are tried in the order of their UUIDs, so that two processes never each hold half of what both need.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415  # 37 ms

    place = folder()
    taken: list[Device] = []
    locks: list[FileLock] = []
    for device in sorted(candidates, key=lambda device: device.uuid):
        if len(taken) == count:
            break
        # Any user must be able to lock what another made.
        lock = FileLock(f"{place}/{device.uuid}.lock", mode=0o666, thread_local=False)
        with suppress(Timeout):
            lock.acquire(timeout=0)
            taken.append(device)
            locks.append(lock)
    found = Lease(tuple(taken), locks)
    if len(taken) == count:
        return found
    found.release()
    return None


def folder() -> str:
    """Where the locks lie; made if it is not there.

    Raises `HermeticError` (environment/gpu-locks).
    """
    given = os.environ.get(VARIABLE)
    for place in [given] if given else [f"{parent}/{_NAME}" for parent in _PLACES]:
        with suppress(FileExistsError, FileNotFoundError, PermissionError, OSError):
            os.mkdir(place)
            os.chmod(place, 0o1777)  # noqa: S103  # everybody makes locks there, and nobody removes another's
        if os.access(place, os.W_OK | os.X_OK):
            return place
    message = f"no folder for the locks of GPUs can be written to: {given or ', '.join(_PLACES)}"
    raise HermeticError(Domain.ENVIRONMENT, "gpu-locks", message, hint=f"set {VARIABLE} to one that all users share")
