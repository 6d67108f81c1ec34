"""Bring files to a folder, every byte hashed as it comes, going on where an earlier try ended.

What lies in the folder is believed only after it was hashed: who died may have left anything. A file on the way is
``partial/<sha256>``; what turned out wrong goes to a folder of its own, whose name says so, and stays for who wants to
look at it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import IO, Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.origin import BrokenError, Origin, unreachable
from hermetic.recipe.lockfile import LockedFile

__all__ = ["AT_ONCE", "LONGEST_PAUSE_S", "Bringer", "StoppedError", "hashed"]

#: Files that are brought at the same time.
AT_ONCE: Final = 8
_ATTEMPTS: Final = 6  # without a byte in between
_PAUSE_S: Final = 0.5
#: Of one pause that is asked for: the Hub counts requests in windows of five minutes.
LONGEST_PAUSE_S: Final = 300.0
_PIECE: Final = 1 << 20
_SMALL: Final = 1 << 24
_RESERVE: Final = 64 << 20  # bytes that stay free for records and logs
#: The Hub answers 400 to who asks for more at once; what is larger is asked for in parts (docs/adr/0027).
_LONGEST: Final = 50 * 10**9
_PART: Final = 10**9

Tell = Callable[[int], None]


class StoppedError(Exception):
    """The driver wants to end."""


@dataclass
class Bringer:
    """Brings the files of one fixed output to `folder`. Nobody else may be at work there.

    `nearby` gives, for a file, paths on this machine that may have its bytes. `tell` is told bytes that have arrived,
    from any thread; a negative number takes some back. `look` is called with a name in the output and the path of the
    file, as soon as it is whole; what it raises stops everything. `quarantine` is where wrong bytes go.
    """

    origin: Origin
    folder: str
    quarantine: str
    tell: Tell = lambda _: None
    look: Callable[[str, str], None] = lambda _name, _path: None
    nearby: Callable[[LockedFile], Iterable[str]] = lambda _: ()
    stop: threading.Event = field(default_factory=threading.Event)

    def bring(self, wanted: Mapping[str, tuple[str, LockedFile]], texts: Mapping[str, bytes]) -> str:
        """The folder with exactly `wanted` (by name in the output, with the path at the origin) and `texts`.

        Raises `HermeticError`: hash/file-mismatch, environment/disk-too-small, environment/origin-…; `StoppedError`
        once `stop` is set.
        """
        out = f"{self.folder}/out"
        os.makedirs(out, exist_ok=True)
        os.makedirs(f"{self.folder}/partial", exist_ok=True)
        _remove_others(out, {*wanted, *texts})
        self._check_space(wanted)
        small = {name: item for name, item in wanted.items() if item[1].size < _SMALL}
        large = {name: item for name, item in wanted.items() if name not in small}
        self._together(small)
        self._together(large)  # after the small ones: those tell whether the large ones are worth their while
        for name, text in texts.items():
            with open(f"{out}/{name}", "wb") as stream:
                stream.write(text)
        return out

    def _check_space(self, wanted: Mapping[str, tuple[str, LockedFile]]) -> None:
        needed = 0
        for name, (_, file) in wanted.items():
            places = (f"{self.folder}/out/{name}", self._partial(file))
            there = next((os.path.getsize(place) for place in places if os.path.exists(place)), 0)
            needed += max(0, file.size - there)
        free = shutil.disk_usage(self.folder).free
        if needed and needed + _RESERVE > free:
            message = f"{self.origin.described} needs {needed:,} bytes more, and the store's disk has {free:,} free"
            hint = "hermetic gc makes room; or choose a store on another disk with --store or HERMETIC_STORE"
            raise HermeticError(Domain.ENVIRONMENT, "disk-too-small", message, hint=hint)

    def _together(self, files: Mapping[str, tuple[str, LockedFile]]) -> None:
        same: dict[str, list[str]] = defaultdict(list)
        for name, (_, file) in files.items():
            same[file.sha256].append(name)
        order = sorted(same.values(), key=lambda names: -files[names[0]][1].size)
        with ThreadPoolExecutor(AT_ONCE, "hermetic-fetch") as pool:
            tasks = [pool.submit(self._file, names, *files[names[0]]) for names in order]
            done, waiting = wait(tasks, return_when=FIRST_EXCEPTION)
            failed = next((error for task in done if (error := task.exception()) is not None), None)
            if failed is not None:
                self._give_up(waiting)
                raise failed

    def _give_up(self, waiting: Iterable[Future[None]]) -> None:
        for task in waiting:
            task.cancel()
        self.stop.set()
        self.origin.abort()

    def _file(self, names: list[str], path: str, file: LockedFile) -> None:
        """Bring the bytes once, under all the names that they have."""
        target, *others = (f"{self.folder}/out/{name}" for name in names)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not (self._is_there(target, file) or self._from_nearby(target, file)):
            self._download(path, file, target)
        for other in others:
            os.makedirs(os.path.dirname(other), exist_ok=True)
            if os.path.lexists(other):
                os.unlink(other)
            os.link(target, other)
            self.tell(file.size)
        for name in names:
            self.look(name, f"{self.folder}/out/{name}")

    def _is_there(self, target: str, file: LockedFile) -> bool:
        try:
            with open(target, "rb") as stream:
                if os.path.getsize(target) == file.size:
                    if self._hash(stream).hexdigest() == file.sha256:
                        return True
                    self.tell(-file.size)
        except FileNotFoundError:
            return False
        os.unlink(target)
        return False

    def _from_nearby(self, target: str, file: LockedFile) -> bool:
        """A copy of what lies somewhere on this machine, never a link: somebody else may write to that."""
        for place in self.nearby(file):
            copy = f"{self._partial(file)}.copy"
            try:
                if os.path.getsize(place) != file.size:
                    continue
                with open(place, "rb") as source, open(copy, "wb") as stream:
                    good = self._copy(source, stream, file)
            except OSError:  # it went away, or is not ours to read
                continue
            if good:
                os.rename(copy, target)
                return True
            os.unlink(copy)
        return False

    def _copy(self, source: IO[bytes], target: IO[bytes], file: LockedFile) -> bool:
        digest, done = hashlib.sha256(), 0
        while piece := source.read(_PIECE):
            self._check_stop()
            target.write(piece)
            digest.update(piece)
            done += len(piece)
            self.tell(len(piece))
        if digest.hexdigest() == file.sha256:
            return True
        self.tell(-done)
        return False

    def _partial(self, file: LockedFile) -> str:
        return f"{self.folder}/partial/{file.sha256}"

    def _download(self, path: str, file: LockedFile, target: str) -> None:
        partial = self._partial(file)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with open(descriptor, "r+b", buffering=0) as stream:
            if os.fstat(descriptor).st_size > file.size:
                stream.truncate()
            arriving = _Arriving(stream, self._hash(stream), stream.tell())
            inherited = arriving.length > 0
            self._fill(path, file, arriving)
            if inherited and not arriving.is_whole(file):  # what an earlier run left was wrong; no need to blame others
                self._restart(arriving)
                self._fill(path, file, arriving)
            if not arriving.is_whole(file):
                raise self._mismatch(path, file, partial, arriving)
        os.rename(partial, target)

    def _hash(self, stream: IO[bytes]) -> hashlib._Hash:
        """Hash what is there, and leave the stream at its end."""
        digest = hashlib.sha256()
        while piece := stream.read(_PIECE):
            self._check_stop()
            digest.update(piece)
            self.tell(len(piece))
        return digest

    def _fill(self, path: str, file: LockedFile, arriving: _Arriving) -> None:
        failures = 0
        while arriving.length < file.size:
            before = arriving.length
            try:
                self._receive(path, file, arriving)
                if arriving.length < _end(file, before):
                    raise BrokenError("the connection ended early")  # as if it had said so
            except BrokenError as error:
                self._check_stop()
                failures = 1 if arriving.length > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise unreachable(self.origin.described, str(error)) from error
                pause = error.wait if error.wait is not None else _PAUSE_S * 2 ** (failures - 1)
                if failures > 1 or error.wait is not None:
                    self.stop.wait(min(pause, LONGEST_PAUSE_S))

    def _receive(self, path: str, file: LockedFile, arriving: _Arriving) -> None:
        """Append what comes; never more than one byte too many."""
        count = None if file.size <= _LONGEST else _end(file, arriving.length) - arriving.length
        with self.origin.stream(path, arriving.length, count) as (start, pieces):
            if start != arriving.length:
                self._restart(arriving)
            for piece in pieces:
                self._check_stop()
                data = piece[: file.size - arriving.length + 1]
                arriving.add(data)
                self.tell(len(data))
                if arriving.length > file.size:
                    return

    def _restart(self, arriving: _Arriving) -> None:
        self.tell(-arriving.length)
        arriving.restart()

    def _mismatch(self, path: str, file: LockedFile, partial: str, arriving: _Arriving) -> HermeticError:
        os.makedirs(self.quarantine, exist_ok=True)
        place = f"{self.quarantine}/{file.sha256[:16]}-{os.path.basename(path)}"
        os.replace(partial, place)
        what = "is longer than" if arriving.length > file.size else "does not have the sha256 that"
        message = (
            f"{path} of {self.origin.described} {what} the lock file says: it should be {file.sha256} "
            f"({file.size:,} bytes); what came is kept at {place}"
        )
        hint = "somebody changed it on the way or at its origin; fetch it again, or lock again if it may differ"
        return HermeticError(Domain.HASH, "file-mismatch", message, hint=hint, data={"quarantine": place})

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError


class _Arriving:
    """A file on its way: what was written, and its hash so far."""

    def __init__(self, stream: IO[bytes], digest: hashlib._Hash, length: int) -> None:
        self._stream = stream
        self._digest = digest
        self.length = length

    def add(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._stream.write(view) :]
        self._digest.update(data)
        self.length += len(data)

    def restart(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self._digest = hashlib.sha256()
        self.length = 0

    def is_whole(self, file: LockedFile) -> bool:
        return self.length == file.size and self._digest.hexdigest() == file.sha256


def _end(file: LockedFile, start: int) -> int:
    """Where the answer ends that is asked for from `start` on."""
    return file.size if file.size <= _LONGEST else min(file.size, start + _PART)


def _remove_others(out: str, wanted: set[str]) -> None:
    """What an earlier run left that is none of it. A killed ingest has made folders read-only."""
    for folder, names, files in os.walk(out, topdown=False):
        os.chmod(folder, 0o755)  # noqa: S103  # as every folder of an output before it is closed
        inside = os.path.relpath(folder, out)
        for name in files:
            if os.path.normpath(f"{inside}/{name}") not in wanted:
                os.unlink(f"{folder}/{name}")
        for name in names:
            if os.path.islink(f"{folder}/{name}"):
                os.unlink(f"{folder}/{name}")


def hashed(pieces: Iterator[bytes], *digests: hashlib._Hash) -> int:
    """Feed everything that comes to all of `digests`; how many bytes there were."""
    size = 0
    for piece in pieces:
        size += len(piece)
        for digest in digests:
            digest.update(piece)
    return size
