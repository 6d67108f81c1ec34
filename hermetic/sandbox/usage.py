"""What a stage used: counted by the kernel for its guard, and read from its control group where there is one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from hermetic.sandbox import cgroup
from hermetic.sandbox.cgroup import Group

__all__ = ["Counted", "Meter", "Usage", "counted", "machine_kills"]

_FIRST, _LONGEST = 0.25, 1.0  # seconds between looks at a group
_BLOCK: Final = 512  # bytes; the unit of ru_oublock


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes of a stage used together; None is not known.

    `cpu_s` is seconds of processor time, `written` bytes written to files. `memory` is the most bytes held at once that
    the kernel could not have dropped (looked at every second, and never less than the largest process);
    `memory_with_cache` is the kernel's own maximum, which counts files read and written too. `disk` is the most bytes
    found in the workspace, where a limit had it watched.
    """

    cpu_s: float
    written: int
    memory: int | None = None
    memory_with_cache: int | None = None
    disk: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Counted:
    """What the kernel added up while a guard reaped its stage; `largest` is bytes of the largest single process."""

    cpu_s: float
    written: int
    largest: int


def counted(pid: int) -> tuple[int, Counted]:
    """Wait for our child `pid`; its exit code, negative for a signal, and what it and all it waited for used."""
    _, status, usage = os.wait4(pid, 0)
    seconds = round(usage.ru_utime + usage.ru_stime, 3)
    return os.waitstatus_to_exitcode(status), Counted(seconds, usage.ru_oublock * _BLOCK, usage.ru_maxrss << 10)


def machine_kills() -> int:
    """How many processes the kernel has killed for memory since this machine started, whosever they were."""
    with suppress(OSError), open("/proc/vmstat", encoding="ascii") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0


class Meter:
    """Reads the group of one running stage. `group` None: `find` is asked for one until it finds it, with a process.

    An engine removes its container's group when the container ends. So the end of the process is waited for, which
    comes before that, and what is known then stays known.
    """

    def __init__(self, group: Group | None, find: Callable[[], int | None]) -> None:
        self._group = group
        self._find = find
        self._memory = 0
        self._peak: int | None = None
        self._oom = False
        self._ending = asyncio.Event()

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed one of the stage's processes for memory, as far as a group tells."""
        if self._group is not None and not self._oom:
            self._oom = self._group.out_of_memory()
        return self._oom

    async def watch(self) -> None:
        """Look from time to time, until cancelled."""
        wait = _FIRST
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._ending.wait()
                        self._ending.clear()
                self._look()
                wait = min(2 * wait, _LONGEST) if self._group is not None else _FIRST
        finally:
            self._look()

    def usage(self, counted: Counted, disk: int | None) -> Usage:
        """The sum. A process hardly larger than the driver says nothing: every one begins as a fork of it."""
        largest = counted.largest if counted.largest > 2 * _own_size() else 0
        return Usage(counted.cpu_s, counted.written, max(self._memory, largest) or None, self._peak, disk)

    def _look(self) -> None:
        if self._group is None:
            self._group = self._found()
        if self._group is None:
            return
        self._memory = max(self._memory, self._group.held())
        self._peak = max(self._peak or 0, self._group.peak() or 0) or None
        self.out_of_memory()

    def _found(self) -> Group | None:
        pid = self._find()
        if pid is None:
            return None
        with suppress(OSError):
            group = cgroup.of(pid)
            self._wake_at_end(pid)
            return group
        return None

    def _wake_at_end(self, pid: int) -> None:
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(pid)

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._ending.set()
            self._look()

        loop.add_reader(descriptor, ended)


def _own_size() -> int:
    """The most bytes of memory that this process ever had."""
    import resource  # noqa: PLC0415  # not everything that imports this measures

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
