"""Holding an output against its record, byte for byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from hermetic.digest import BlobDigest
from hermetic.errors import HermeticError
from hermetic.store import manifest
from hermetic.store.copying import canonical_mode
from hermetic.store.hashing import NO_NEEDLES, hash_and_scan
from hermetic.store.layout import EPOCH_NS, Layout
from hermetic.store.realisation import Realisation
from hermetic.store.walk import OPEN_FILE, OPEN_FOLDER, Descent

__all__ = ["Hashes", "differences"]

_LARGE = 1 << 20

Found = tuple[str, str]  # path inside the output, what is wrong with it


class Hashes:
    """Digests of files by inode, so that a file with many links is read once.

    `advance` is told of bytes that were read, or need not be.
    """

    def __init__(self, advance: Callable[[int], None] | None = None) -> None:
        self._known: dict[tuple[int, int], BlobDigest] = {}
        self._advance = advance

    def of(self, opened: int, status: os.stat_result) -> BlobDigest:
        inode = (status.st_dev, status.st_ino)
        if inode not in self._known:
            self._known[inode] = hash_and_scan(opened, status.st_size, NO_NEEDLES, self._advance).digest
        elif self._advance is not None:
            self._advance(status.st_size)
        return self._known[inode]


def differences(layout: Layout, record: Realisation, hashes: Hashes) -> Iterator[Found]:
    """All that is wrong with one realised output; nothing when it is whole. Does not raise for what it finds."""
    try:
        known = manifest.read(layout, record.tree)
    except HermeticError as error:
        yield "", error.message
        return
    try:
        top = os.open(layout.output(record.key, record.name), OPEN_FOLDER)
    except OSError as error:
        yield "", f"cannot be opened: {error.strerror}"
        return
    try:
        yield from _Comparison(known, hashes).run(top)
    finally:
        os.close(top)


class _Comparison:
    def __init__(self, known: manifest.Manifest, hashes: Hashes) -> None:
        self._hashes = hashes
        self._folders: dict[str, dict[str, manifest.Entry]] = {"": {}}
        for entry in known.entries:
            if entry.type == "dir":
                self._folders[entry.path] = {}
            folder, _, name = entry.path.rpartition("/")
            self._folders[folder][name] = entry

    def run(self, top: int) -> Iterator[Found]:
        # In this order: the threads must have ended before the descriptors they use are closed.
        with Descent(top) as descent, ThreadPoolExecutor(os.cpu_count() or 1, "hermetic-verify") as pool:
            for path, expected in self._folders.items():
                parts = tuple(os.fsencode(part) for part in path.split("/")) if path else ()
                try:
                    descriptor = descent.at(parts)
                except FileNotFoundError:
                    continue  # its parent has said so
                except OSError as error:
                    yield path, f"cannot be opened: {error.strerror}"
                    continue
                yield from self._folder(path, descriptor, expected, pool)

    def _folder(
        self, path: str, descriptor: int, expected: dict[str, manifest.Entry], pool: ThreadPoolExecutor
    ) -> Iterator[Found]:
        status = os.fstat(descriptor)
        yield from ((path, what) for what in _metadata(status, 0o555))
        try:
            names = os.listdir(descriptor)
        except OSError as error:
            yield path, f"cannot be listed: {error.strerror}"
            return
        for extra in sorted(set(names) - set(expected)):
            yield _join(path, extra), "is not in the record"
        # Threads cost more than they save where files are small.
        large = [entry for entry in expected.values() if entry.size >= _LARGE]
        checks = pool.map(lambda entry: list(self._entry(descriptor, entry)), large)
        for entry in expected.values():
            found = next(checks) if entry.size >= _LARGE else self._entry(descriptor, entry)
            yield from ((entry.path, what) for what in found)

    def _entry(self, folder: int, entry: manifest.Entry) -> Iterator[str]:
        name = os.fsencode(entry.path.rpartition("/")[2])
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if _type(status.st_mode) != entry.type:
                yield f"is a {_type(status.st_mode)}, recorded as a {entry.type}"
            elif entry.type == "symlink":
                yield from self._symlink(folder, name, entry, status)
            elif entry.type == "file":
                yield from self._file(folder, name, entry, status)
        except FileNotFoundError:
            yield "is missing"
        except OSError as error:
            yield f"cannot be read: {error.strerror}"

    def _symlink(self, folder: int, name: bytes, entry: manifest.Entry, status: os.stat_result) -> Iterator[str]:
        target = os.readlink(name, dir_fd=folder)
        if target != entry.target.encode():
            yield f"points to {os.fsdecode(target)!r}, recorded as {entry.target!r}"
        if status.st_mtime_ns != EPOCH_NS:
            yield "has another time than 1980-01-01"

    def _file(self, folder: int, name: bytes, entry: manifest.Entry, status: os.stat_result) -> Iterator[str]:
        yield from _metadata(status, canonical_mode(executable=entry.executable))
        if status.st_size != entry.size:
            yield f"holds {status.st_size:,} bytes, recorded as {entry.size:,}"
            return
        opened = os.open(name, OPEN_FILE, dir_fd=folder)
        try:
            if self._hashes.of(opened, status) != entry.digest:
                yield "has other contents than recorded"
        finally:
            os.close(opened)


def _metadata(status: os.stat_result, mode: int) -> Iterator[str]:
    if stat.S_IMODE(status.st_mode) != mode:
        yield f"has mode {stat.S_IMODE(status.st_mode):04o} instead of {mode:04o}"
    if status.st_mtime_ns != EPOCH_NS:
        yield "has another time than 1980-01-01"


def _type(mode: int) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
