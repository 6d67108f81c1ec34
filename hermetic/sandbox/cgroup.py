"""Control groups: limits and accounts that hold for a stage's whole tree, where this machine lets us make one.

Version 2 is used if an ancestor of our own group hands out the memory controller and is ours to write to (root, or a
user under systemd's delegation), else version 1's memory and pids hierarchies, else none. Our groups lie beside or
below the driver's own, so that whatever limits the driver limits its stages too. Nobody else's group is touched.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hermetic.sandbox import owner
from hermetic.sandbox.plan import Limits

__all__ = ["Group", "Parent", "allowed", "make", "of", "parents", "sweep"]

_PREFIX: Final = "hermetic"
_NUMBERS: Final = itertools.count(1)
_READS: Final[
    dict[str, dict[int, tuple[str, tuple[str, ...]]]]
] = {  # what a group tells, by version: its file and the words of the lines to add up
    "oom": {1: ("memory.oom_control", ("oom_kill",)), 2: ("memory.events", ("oom_kill",))},
    "held": {1: ("memory.stat", ("total_rss", "total_shmem")), 2: ("memory.stat", ("anon", "shmem"))},
}
_PEAK: Final = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
_OPTIONAL: Final = ("swap.max", "memsw.limit_in_bytes")  # kernels without swap accounting lack them


@dataclass(frozen=True)
class Parent:
    """Where groups can be made: one folder of version 2, or those of version 1's memory and pids hierarchies."""

    version: int
    memory: str
    processes: str


@dataclass(frozen=True)
class Group:
    """A group of version 1 or 2; `memory` is its folder in the memory hierarchy, `folders` are all that we made."""

    version: int
    memory: str
    folders: tuple[str, ...] = ()

    @property
    def doors(self) -> tuple[str, ...]:
        """Files that take in the thread that writes "0" to them.

        Not ``cgroup.procs``, which waits for a grace period of the kernel's (12 ms); one thread moves itself in 0.1.
        """
        return tuple(f"{folder}/tasks" for folder in self.folders) if self.version == 1 else ()

    def open(self) -> int | None:
        """A descriptor to fork into the group with (version 2), where moving costs that grace period."""
        return os.open(self.memory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if self.version == 2 else None

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed one of the group's processes for memory."""
        return bool(self._sum("oom"))

    def held(self) -> int:
        """Bytes in use that could not be dropped: anonymous and shared memory, without the page cache."""
        return self._sum("held") or 0

    def peak(self) -> int | None:
        """The most bytes ever in use, page cache included; None where the kernel does not say (before 5.19)."""
        try:
            with open(f"{self.memory}/{_PEAK[self.version]}", encoding="ascii") as stream:
                return int(stream.read())
        except OSError:
            return None

    def close(self) -> None:
        """Remove the groups; their last process has ended."""
        for folder in self.folders:
            _remove(folder)

    def _sum(self, what: str) -> int | None:
        name, words = _READS[what][self.version]
        try:
            with open(f"{self.memory}/{name}", encoding="ascii") as stream:
                pairs = (line.split() for line in stream)
                return sum(int(pair[1]) for pair in pairs if pair[0] in words)
        except OSError:
            return None  # gone


def make(limits: Limits) -> Group | None:
    """A group with `limits`, or None where none can be made. Without limits it only keeps accounts."""
    name = f"{_PREFIX}-{_namespace()}-{owner.name()}-{next(_NUMBERS)}"
    for parent in _parents_here():
        group = _group(parent, name)
        try:
            for folder in group.folders:
                os.mkdir(folder)
            for path, value in _settings(parent.version, group, limits):
                _write(path, value)
        except OSError:
            group.close()
        else:
            return group
    return None


def of(pid: int) -> Group | None:
    """The memory group that a process is in, which another made, to read what it tells."""
    mounts = dict(_mounts(_read("/proc/self/mounts")))
    groups = _groups(_read(f"/proc/{pid}/cgroup"))
    for version, controller in ((1, "memory"), (2, "")):
        if controller in mounts and controller in groups:
            return Group(version, f"{mounts[controller]}{groups[controller].rstrip('/')}")
    return None


def allowed() -> int | None:
    """Bytes of memory that the groups above this process leave it; None where none of them has a limit."""
    group = of(os.getpid())
    if group is None:
        return None
    name = "memory.limit_in_bytes" if group.version == 1 else "memory.max"
    found: list[int] = []
    folder = group.memory
    while os.path.exists(f"{folder}/cgroup.procs"):
        with suppress(OSError, ValueError):  # the root has no limit, and no limit is "max"
            found.append(int(_read(f"{folder}/{name}")))
        folder = os.path.dirname(folder)
    return min(found, default=None)


def parents(mounts: str, mine: str) -> Iterator[Parent]:
    """The places for groups, best first, from the texts of ``/proc/self/mounts`` and ``/proc/self/cgroup``."""
    mounted, groups = dict(_mounts(mounts)), _groups(mine)
    if "" in mounted and "" in groups:
        for folder in _handing_out(mounted[""], groups[""]):
            yield Parent(2, folder, folder)
    if {"memory", "pids"} <= mounted.keys():
        memory, processes = (f"{mounted[name]}{groups.get(name, '').rstrip('/')}" for name in ("memory", "pids"))
        if os.access(memory, os.W_OK) and os.access(processes, os.W_OK):
            yield Parent(1, memory, processes)


def sweep(parent: Parent) -> None:
    """Remove the groups of drivers that were killed, and end whatever is still in them."""
    ours = f"{_PREFIX}-{_namespace()}-"
    for folder in {parent.memory, parent.processes}:
        for name in os.listdir(folder):
            if name.startswith(ours) and not owner.lives(name.removeprefix(ours).rpartition("-")[0]):
                _end(f"{folder}/{name}")
                _remove(f"{folder}/{name}")


@functools.cache
def _parents_here() -> tuple[Parent, ...]:
    found = tuple(parents(_read("/proc/self/mounts"), _read("/proc/self/cgroup")))
    for parent in found:
        sweep(parent)
    return found


def _group(parent: Parent, name: str) -> Group:
    folders = tuple(dict.fromkeys((f"{parent.memory}/{name}", f"{parent.processes}/{name}")))
    return Group(parent.version, folders[0], folders)


def _settings(version: int, group: Group, limits: Limits) -> Iterator[tuple[str, str]]:
    """Files and what to write to them. Swap is no way around a limit."""
    if limits.memory_mb is not None:
        size = str(limits.memory_mb << 20)
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version == 1 else ("memory.max",)
        yield from ((f"{group.memory}/{name}", size) for name in names)
        if version == 2:
            yield f"{group.memory}/memory.swap.max", "0"
    if limits.processes is not None:
        yield f"{group.folders[-1]}/pids.max", str(limits.processes)


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    """Controller ("" for version 2) and where its hierarchy is mounted."""
    for line in text.splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2":
            yield "", place
        elif kind == "cgroup":
            yield from ((name, place) for name in options.split(",") if name in {"memory", "pids"})


def _groups(text: str) -> dict[str, str]:
    """The group by controller ("" for version 2)."""
    fields = [line.split(":", 2) for line in text.splitlines()]
    return {name: path for _, names, path in fields for name in names.split(",")}


def _handing_out(mount: str, mine: str) -> Iterator[str]:
    """Ancestors of our own group, nearest first, whose children get the memory and pids controllers.

    Who moves a process must be able to write to the nearest common ancestor of where it was and will be: this one.
    """
    folder = mine.rstrip("/")
    while folder:
        folder = folder.rpartition("/")[0]
        yield from _if_handing_out(f"{mount}{folder}")
    if mine == "/":
        yield from _if_handing_out(mount)


def _if_handing_out(folder: str) -> Iterator[str]:
    with suppress(OSError):
        handed = set(_read(f"{folder}/cgroup.subtree_control").split())
        if {"memory", "pids"} <= handed and os.access(f"{folder}/cgroup.procs", os.W_OK):
            yield folder


@functools.cache
def _namespace() -> str:
    """Process ids mean something only where they were given."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _end(folder: str) -> None:
    with suppress(OSError):
        for pid in _read(f"{folder}/cgroup.procs").split():
            os.kill(int(pid), signal.SIGKILL)


def _remove(folder: str) -> None:
    with suppress(OSError):  # still in use by a process that is ending: the next driver sweeps it
        os.rmdir(folder)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _write(path: str, value: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if not path.endswith(_OPTIONAL):
            raise
        return
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
