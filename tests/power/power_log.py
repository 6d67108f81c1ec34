"""What a disk was told, and every state in which a power loss may have left it.

A disk with a write cache promises one thing: what it acknowledged before a flush is there once the flush is
acknowledged. Of later writes it may have kept any, in whole sectors. Sectors are 4096 bytes here, as those of today's
disks are: XFS itself does not survive less (a directory block of which 512 bytes were new fails its checksum in the
recovery, and the file system cannot be mounted).
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WRITE, FLUSH, MARK = b"w", b"f", b"m"
SECTOR = 4096
FATES = ("all", "none", "writes", "sectors")
_HEAD = struct.Struct("<cQI")


def encode(kind: bytes, offset: int, length: int) -> bytes:
    """What stands before the data of one entry."""
    return _HEAD.pack(kind, offset, length)


@dataclass(frozen=True, slots=True)
class Entry:
    """`offset` is on the disk, `at` where the data lie in the log; both in bytes."""

    kind: bytes
    offset: int
    length: int
    at: int


class Log:
    """A finished log; its positions are indices of `entries`: a crash at position n happened after n of them."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.entries = list(self._read())

    def close(self) -> None:
        os.close(self._file)

    def data(self, entry: Entry) -> bytes:
        return os.pread(self._file, entry.length, entry.at)

    def marks(self) -> Iterator[tuple[int, bytes]]:
        """Every mark with the position right after it."""
        return ((n, self.data(entry)) for n, entry in enumerate(self.entries, 1) if entry.kind == MARK)

    def flushed(self, position: int) -> int:
        """Where the last flush before `position` stands: writes before that are on the disk for certain."""
        return next((n for n in range(position - 1, -1, -1) if self.entries[n].kind == FLUSH), 0)

    def flushes(self) -> int:
        return sum(entry.kind == FLUSH for entry in self.entries)

    def writes(self, first: int, last: int) -> list[Entry]:
        return [entry for entry in self.entries[first:last] if entry.kind == WRITE]

    def _read(self) -> Iterator[Entry]:
        place, end = 0, os.fstat(self._file).st_size
        while place < end:
            kind, offset, length = _HEAD.unpack(os.pread(self._file, _HEAD.size, place))
            yield Entry(kind, offset, length, place + _HEAD.size)
            place += _HEAD.size + length


def kept(entry: Entry, fate: str, share: float, chance: random.Random) -> Iterator[tuple[int, int]]:
    """Which pieces of an unflushed write the disk kept: first byte within it, and length."""
    match fate:
        case "all":
            yield 0, entry.length
        case "writes":
            if chance.random() < share:
                yield 0, entry.length
        case "sectors":
            first = 0
            while first < entry.length:
                length = min(SECTOR - (entry.offset + first) % SECTOR, entry.length - first)
                if chance.random() < share:
                    yield first, length
                first += length


class Images:
    """Crash images of one log, made in the order of their positions."""

    def __init__(self, log: Log, base: Path, folder: Path) -> None:
        """`base` is what the disk held before the log began; `folder` is where images are made."""
        self._log = log
        self._sure, self._image = folder / "sure", folder / "crashed"
        self._done = 0
        copy(base, self._sure)

    def crash(self, position: int, fate: str, chance: random.Random) -> Path:
        """The disk after a power loss at `position`, which is not before the last one's; good until the next call."""
        log = self._log
        flushed = log.flushed(position)
        _apply(log, self._sure, ((entry, 0, entry.length) for entry in log.writes(self._done, flushed)))
        self._done = max(self._done, flushed)
        copy(self._sure, self._image)
        share = chance.random()
        pieces = ((e, *piece) for e in log.writes(flushed, position) for piece in kept(e, fate, share, chance))
        _apply(log, self._image, pieces)
        return self._image


def _apply(log: Log, image: Path, pieces: Iterator[tuple[Entry, int, int]]) -> None:
    with open(image, "r+b", buffering=0) as file:
        known: Entry | None = None
        data = b""
        for entry, first, length in pieces:
            if entry is not known:
                known, data = entry, log.data(entry)
            os.pwrite(file.fileno(), data[first : first + length], entry.offset + first)


def copy(source: Path, target: Path) -> None:
    """Copy a file with its holes."""
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        os.truncate(new.fileno(), size)
        for first, last in _filled(old.fileno(), size):
            os.lseek(new.fileno(), first, os.SEEK_SET)
            place = first
            while place < last:
                place += os.sendfile(new.fileno(), old.fileno(), place, last - place)


def _filled(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            first = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole until the end
            return
        end = os.lseek(descriptor, first, os.SEEK_HOLE)
        yield first, end
