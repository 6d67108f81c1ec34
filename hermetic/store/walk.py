"""Walking a tree that a hostile program may have made: by descriptor, without recursion, never through a symlink."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from hermetic.digest import BlobDigest, Key, TreeDigest
from hermetic.errors import HermeticError
from hermetic.store.faults import refuse

__all__ = ["OPEN_FILE", "OPEN_FOLDER", "Descent", "FileNode", "FolderNode", "Limits", "LinkNode", "Survey", "survey"]

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Parts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an output may be at most. `size` is apparent bytes, or a sparse file could keep us hashing for days."""

    depth: int = 256
    entries: int = 2_000_000
    size: int = 2 << 40


@dataclass(slots=True)
class FileNode:
    name: bytes
    size: int
    executable: bool
    inode: tuple[int, int] | None = None  # only where the file has several links
    links: int = 1
    digest: BlobDigest | None = None


@dataclass(slots=True)
class LinkNode:
    name: bytes
    target: bytes


@dataclass(slots=True)
class FolderNode:
    parts: Parts
    files: list[FileNode] = field(default_factory=list)
    links: list[LinkNode] = field(default_factory=list)
    folders: list[FolderNode] = field(default_factory=list)
    digest: TreeDigest | None = None

    def inside(self, name: bytes) -> bytes:
        return b"/".join((*self.parts, name))


@dataclass(slots=True)
class Survey:
    """What a tree holds, parents before children, every folder's names in byte order."""

    folders: list[FolderNode]
    size: int = 0
    entries: int = 0

    @property
    def top(self) -> FolderNode:
        return self.folders[0]

    def files(self) -> Iterator[tuple[FolderNode, FileNode]]:
        for folder in self.folders:
            for file in folder.files:
                yield folder, file


class Descent:
    """Gives descriptors of folders below `top`, keeping open only those on the way to the last one asked for.

    Opening name by name below a descriptor works at any depth, where a path would hit PATH_MAX, and cannot be led
    elsewhere by a symlink. A descriptor is good until the next `at`. `top` stays the caller's.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._parts: list[bytes] = []
        self._open: list[int] = []

    def at(self, parts: Parts) -> int:
        common = 0
        for ours, wanted in zip(self._parts, parts, strict=False):
            if ours != wanted:
                break
            common += 1
        self._ascend(common)
        for name in parts[common:]:
            self._open.append(os.open(name, OPEN_FOLDER, dir_fd=self._open[-1] if self._open else self._top))
            self._parts.append(name)
        return self._open[-1] if self._open else self._top

    def _ascend(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop())
            self._parts.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ascend(0)


def survey(top: int, limits: Limits, references: Sequence[Key] = ()) -> Survey:
    """Look at everything below the folder `top` and change nothing.

    Raises `HermeticError` (build/output-…) for the first thing that may not enter a store.
    """
    found = Survey([])
    waiting = [FolderNode(())]
    with Descent(top) as descent:
        while waiting:
            folder = waiting.pop()
            found.folders.append(folder)
            _list(folder, _enter(descent, folder, limits), found, limits)
            waiting.extend(reversed(folder.folders))
    _check_links(found, references)
    return found


def _enter(descent: Descent, folder: FolderNode, limits: Limits) -> int:
    if len(folder.parts) > limits.depth:
        raise refuse("output-too-deep", b"/".join(folder.parts[:3]) + b"/...", f"deeper than {limits.depth} folders")
    try:
        return descent.at(folder.parts)
    except OSError as error:
        raise unreadable(b"/".join(folder.parts), error) from error


def unreadable(path: bytes, error: OSError) -> HermeticError:
    return refuse("output-unreadable", path, f"cannot be read: {error.strerror}")


def _list(folder: FolderNode, descriptor: int, found: Survey, limits: Limits) -> None:
    # Judged by its mode, not by trying, so that root and other users get the same answer.
    if os.fstat(descriptor).st_mode & 0o500 != 0o500:
        raise refuse("output-unreadable", b"/".join(folder.parts), "its mode denies its owner to list it")
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                found.entries += 1
                if found.entries > limits.entries:
                    raise refuse("output-too-many-files", b"", f"more than {limits.entries:,} files and folders")
                _add(folder, descriptor, os.fsencode(entry.name), entry.stat(follow_symlinks=False), found)
    except OSError as error:
        raise unreadable(b"/".join(folder.parts), error) from error
    if found.size > limits.size:
        raise refuse("output-too-large", b"", f"its files say they hold more than {limits.size:,} bytes")
    for nodes in (folder.files, folder.links):
        nodes.sort(key=lambda node: node.name)
    folder.folders.sort(key=lambda node: node.parts[-1])


def _add(folder: FolderNode, descriptor: int, name: bytes, status: os.stat_result, found: Survey) -> None:
    _check_name(folder, name)
    mode = status.st_mode
    if stat.S_ISREG(mode):
        if not mode & 0o400:
            raise refuse("output-unreadable", folder.inside(name), "its mode denies its owner to read it")
        inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
        folder.files.append(FileNode(name, status.st_size, bool(mode & 0o100), inode, status.st_nlink))
        found.size += status.st_size
    elif stat.S_ISDIR(mode):
        if mode & 0o500 != 0o500:
            raise refuse("output-unreadable", folder.inside(name), "its mode denies its owner to list it")
        folder.folders.append(FolderNode((*folder.parts, name)))
    elif stat.S_ISLNK(mode):
        target = os.readlink(name, dir_fd=descriptor)
        _check_text(folder.inside(name), target, "points to a name that is")
        folder.links.append(LinkNode(name, target))
    else:
        raise refuse(
            "output-special-file",
            folder.inside(name),
            f"is a {_kind(mode)}; an output holds regular files, folders and symlinks",
        )


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "FIFO"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _check_name(folder: FolderNode, name: bytes) -> None:
    if name.isascii() and name.isalnum():  # most names, without decoding
        return
    _check_text(folder.inside(name), name, "has a name that is")


def _check_text(path: bytes, text: bytes, what: str) -> None:
    try:
        characters = text.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse("output-name", path, f"{what} not UTF-8") from None
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in characters):
        raise refuse("output-name", path, f"{what} not free of control characters")


def _check_links(found: Survey, references: Sequence[Key]) -> None:
    real = {folder.parts for folder in found.folders}
    allowed = tuple(f"{key.base32}-".encode("ascii") for key in references)
    for folder in found.folders:
        for link in folder.links:
            if _escapes(folder.parts, link.target, real, allowed):
                raise refuse(
                    "output-symlink-escapes",
                    folder.inside(link.name),
                    f"points to {link.target.decode()!r}, outside the output",
                    "make it relative, to something inside the output",
                )


def _escapes(start: Parts, target: bytes, real: set[Parts], allowed: tuple[bytes, ...]) -> bool:
    """Whether following `target` may leave the tree.

    ``..`` is believed only from a real folder: through another symlink it would lead somewhere else than it reads.
    """
    if target.startswith(b"/"):
        return True
    where = list(start)
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    for position, part in enumerate(parts):
        if part != b"..":
            where.append(part)
        elif not where:
            return not _to_reference(parts[position + 1 :], allowed)
        elif tuple(where) in real:
            where.pop()
        else:
            return True
    return False


def _to_reference(rest: list[bytes], allowed: tuple[bytes, ...]) -> bool:
    return bool(rest) and b".." not in rest and rest[0].startswith(allowed)
