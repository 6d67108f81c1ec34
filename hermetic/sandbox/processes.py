"""The processes of a running stage, seen from outside: who they are, stopping them all at once, which files they hold.

All of it is read from ``/proc`` of the driver's own namespace. The stage's processes are descendants of its guard,
which adopts whatever loses its parent, so none can leave the tree (`hermetic.sandbox.guard`).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["FileId", "Holder", "Tree"]

FileId = tuple[int, int]  #: device and inode, as stat(2) gives them

_STOPPED: Final = frozenset("TtZX")
_STEP: Final = 0.002  # seconds between two looks at processes that are being stopped
_GONE: Final = (FileNotFoundError, ProcessLookupError)
_RANGE: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that could still change a file: it has it open for writing, or mapped shared and writable."""

    pid: int
    program: str
    file: FileId
    how: str


class Tree:
    """One running stage. `out_of_memory` says whether the kernel has killed one of its processes for memory.

    `apart` says that its processes have a namespace of their own, below the guard's. (Nix's builder and what it starts
    share one.)
    """

    def __init__(self, guard: int, out_of_memory: Callable[[], bool], *, apart: bool = True) -> None:
        self.out_of_memory = out_of_memory
        self._apart = apart
        self._guard = guard
        self._depth = _depth(guard)
        self._ours: set[int] = set()  # what we stopped, and so will let go on

    def processes(self) -> list[int]:
        """Everything below the guard in a process namespace of its own, so not bubblewrap or podman themselves.

        Those open no file of the stage, and conmon must go on to hear that it should kill.
        """
        children: dict[int, list[int]] = {}
        for pid, parent in _parents():
            children.setdefault(parent, []).append(pid)
        found: list[int] = []
        pending = [self._guard]
        while pending:
            below = children.get(pending.pop(), [])
            found += (pid for pid in below if not self._apart or _depth(pid) > self._depth)
            pending += below
        return found

    async def freeze(self, within: float) -> bool:
        """Stop every process; False, with all of them running again, if that took longer than `within` seconds.

        True means: two looks in a row have found the same processes, and every thread of them stopped.
        """
        deadline = time.monotonic() + within
        before: set[int] = set()
        while True:
            now = set(self.processes())
            try:
                running = self._stop(now)
            except PermissionError:
                running = now
            if now and not running and now == before:
                return True
            if time.monotonic() > deadline:
                self.thaw()
                return False
            before = set() if running else now
            await asyncio.sleep(_STEP if running else 0)

    def frozen(self) -> bool:
        """Whether every thread is (still) stopped."""
        return all([_is_stopped(pid) for pid in self.processes()] or [False])

    def thaw(self) -> None:
        """Let everything that `freeze` stopped go on."""
        for pid in self._ours:
            try:
                os.kill(pid, signal.SIGCONT)
            except _GONE:
                continue
        self._ours.clear()

    def holders(self, files: Collection[FileId]) -> tuple[list[Holder], list[str]]:
        """Who could still change one of `files`, and in words which processes would not let us look.

        Every thread is asked, because each may have a table of descriptors of its own.
        """
        wanted = set(files)
        found: list[Holder] = []
        hidden: list[str] = []
        processes = self.processes()
        if not processes:
            hidden.append("no process of the stage can be seen")
        for pid in processes:
            try:
                found += _descriptors(pid, wanted)
                found += _mappings(pid, wanted)
            except _GONE:
                continue
            except PermissionError:
                hidden.append(f"process {pid} ({_program(pid)}) lets nobody see which files it has open")
        return found, hidden

    def _stop(self, processes: set[int]) -> set[int]:
        """Stop those that run; returns them."""
        running = set()
        for pid in processes:
            if _is_stopped(pid):
                continue
            running.add(pid)
            try:
                os.kill(pid, signal.SIGSTOP)
                self._ours.add(pid)
            except _GONE:
                continue
        return running


def _depth(pid: int) -> int:
    """In how many process namespaces it has a number; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
            return next((len(line.split()) - 1 for line in lines if line.startswith("NSpid:")), 0)
    except _GONE:
        return 0


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            yield int(name), int(_stat(f"/proc/{name}")[1])
        except _GONE:
            continue


def _stat(folder: str) -> list[str]:
    """The fields of ``stat`` from the state on; the name before them may contain anything."""
    with open(f"{folder}/stat", encoding="utf-8", errors="replace") as stream:
        return stream.read().rpartition(")")[2].split()


def _is_stopped(pid: int) -> bool:
    """Whether no thread of it runs; what has ended does not."""
    try:
        return all(_stat(f"/proc/{pid}/task/{thread}")[0] in _STOPPED for thread in os.listdir(f"/proc/{pid}/task"))
    except _GONE:
        return not os.path.exists(f"/proc/{pid}")


def _descriptors(pid: int, files: set[FileId]) -> Iterator[Holder]:
    for thread in os.listdir(f"/proc/{pid}/task"):
        place = f"/proc/{pid}/task/{thread}"
        for number in os.listdir(f"{place}/fd"):
            try:
                status = os.stat(f"{place}/fd/{number}")
                identity = (status.st_dev, status.st_ino)
                if identity in files and _may_write(f"{place}/fdinfo/{number}"):
                    yield Holder(pid, _program(pid), identity, "open for writing")
            except _GONE:
                continue


def _may_write(fdinfo: str) -> bool:
    with open(fdinfo, encoding="ascii") as lines:
        flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_RDONLY


def _mappings(pid: int, files: set[FileId]) -> Iterator[Holder]:
    """Shared mappings that are writable, or could be made so: the descriptor behind may be closed long since."""
    doubtful: dict[str, FileId] = {}
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            span, rights, _, device, inode, *path = line.rstrip("\n").split(None, 5)
            if rights[3] != "s" or inode == "0":
                continue
            identity = _mapped(pid, device, int(inode), path, files)
            if identity is None:
                continue
            if rights[1] == "w":
                yield Holder(pid, _program(pid), identity, "mapped writable")
            else:
                doubtful[span] = identity
    if doubtful:
        yield from (Holder(pid, _program(pid), doubtful[span], "mapped writable") for span in _writable(pid, doubtful))


def _mapped(pid: int, device: str, inode: int, path: list[str], files: set[FileId]) -> FileId | None:
    """Which of `files` a line of ``maps`` means.

    On btrfs and overlay it names another device than stat(2), so there the inode decides, and the path if it leads to
    another file. Devices with a major number of their own are named alike by both.
    """
    major, minor = (int(part, 16) for part in device.split(":"))
    exact = (os.makedev(major, minor), inode)
    alike = [file for file in files if file[1] == inode and os.major(file[0]) == 0 and major == 0]
    if exact in files or not alike:
        return exact if exact in files else None
    try:
        status = os.stat(f"/proc/{pid}/root{path[0]}" if path else "/")
    except _GONE:
        return alike[0]
    return alike[0] if (status.st_dev, status.st_ino) in files else None


def _writable(pid: int, spans: Collection[str]) -> Iterator[str]:
    """Of read-only shared mappings those that mprotect(2) may make writable: the file was opened for writing."""
    here = ""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if _RANGE.match(line):
                here = line.split(" ", 1)[0]
            elif line.startswith("VmFlags:") and here in spans and "mw" in line.split():
                yield here


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except _GONE:
        return "?"
