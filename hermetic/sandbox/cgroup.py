"""Control groups: memory and process limits that hold for a stage's whole tree, where this machine lets us make one.

Version 2 is used if an ancestor of our own group hands out the memory controller and is ours to write to (root, or a
user under systemd's delegation), else version 1's memory and pids hierarchies, else none.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hermetic.sandbox.plan import Limits

__all__ = ["Group", "make"]

_PREFIX: Final = "hermetic-"
_NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True)
class Group:
    """`folders` are one group in each hierarchy; `events` says how often the kernel killed for memory."""

    folders: tuple[str, ...]
    events: str

    @property
    def doors(self) -> tuple[str, ...]:
        """Files that take a process in."""
        return tuple(f"{folder}/cgroup.procs" for folder in self.folders)

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed one of the group's processes for memory."""
        try:
            with open(self.events, encoding="ascii") as stream:
                return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in stream)
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Remove the groups; their last process has ended."""
        for folder in self.folders:
            _remove(folder)


def make(limits: Limits) -> Group | None:
    """A group with `limits`, or None where there is nothing to limit or no group can be made."""
    if limits.memory_mb is None and limits.processes is None:
        return None
    name = f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
    for parents, settings, events in _choices(limits):
        folders = tuple(f"{parent}/{name}" for parent in parents)
        made: list[str] = []
        try:
            for folder in folders:
                _sweep(os.path.dirname(folder))
                os.mkdir(folder)
                made.append(folder)
            for place, number, value in settings:
                _write(f"{folders[number]}/{place}", value)
            return Group(folders, f"{folders[0]}/{events}")
        except OSError:
            for folder in made:
                _remove(folder)
    return None


_Setting = tuple[str, int, str]  # file, number of the folder, value


def _choices(limits: Limits) -> Iterator[tuple[list[str], list[_Setting], str]]:
    mounts = dict(_mounts())
    mine = _own_groups()
    memory = str((limits.memory_mb or 0) << 20)
    processes = str(limits.processes)
    if "" in mounts and "" in mine:
        both = [("memory.max", 0, memory), ("memory.swap.max", 0, "0")] if limits.memory_mb else []
        both += [("pids.max", 0, processes)] if limits.processes else []
        for parent in _handing_out(mounts[""], mine[""]):
            yield [parent], both, "memory.events"
    if "memory" in mounts and "pids" in mounts:
        parents = [f"{mounts[name]}{mine.get(name, '/').rstrip('/')}" for name in ("memory", "pids")]
        settings = [("memory.limit_in_bytes", 0, memory)] if limits.memory_mb else []
        settings += [("pids.max", 1, processes)] if limits.processes else []
        yield parents, settings, "memory.oom_control"


def _mounts() -> Iterator[tuple[str, str]]:
    """Controller ("" for version 2) and where its hierarchy is mounted."""
    with open("/proc/self/mounts", encoding="utf-8") as lines:
        for line in lines:
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup2":
                yield "", place
            elif kind == "cgroup":
                yield from ((name, place) for name in options.split(",") if name in {"memory", "pids"})


def _own_groups() -> dict[str, str]:
    with open("/proc/self/cgroup", encoding="utf-8") as lines:
        fields = [line.rstrip("\n").split(":", 2) for line in lines]
    return {name: path for _, names, path in fields for name in names.split(",")}


def _handing_out(mount: str, mine: str) -> Iterator[str]:
    """Ancestors of our own group, nearest first, whose children get the memory and pids controllers."""
    folder = mine.rstrip("/")
    while folder:
        folder = folder.rpartition("/")[0]
        yield from _if_handing_out(f"{mount}{folder}")
    if mine == "/":
        yield from _if_handing_out(mount)


def _if_handing_out(folder: str) -> Iterator[str]:
    try:
        with open(f"{folder}/cgroup.subtree_control", encoding="ascii") as stream:
            controllers = stream.read().split()
    except OSError:
        return
    if {"memory", "pids"} <= set(controllers) and os.access(f"{folder}/cgroup.procs", os.W_OK):
        yield folder


def _sweep(parent: str) -> None:
    """Remove the empty groups of drivers that were killed."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX) and not _lives(name.split("-")[1]):
            _remove(f"{parent}/{name}")


def _lives(pid: str) -> bool:
    return os.path.isdir(f"/proc/{pid}")


def _remove(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        return  # still in use by a process that is ending: the next driver sweeps it


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as stream:
            stream.write(value)
    except FileNotFoundError:
        if not path.endswith("swap.max"):  # a kernel without swap accounting
            raise
