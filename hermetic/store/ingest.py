"""From a dead builder's folder to a tree with canonical metadata, every file hashed and shared.

Two passes: `survey` looks at everything and changes nothing, so that a bad output is refused before anything is
hashed; then each file is hashed, made canonical and linked into the blobs, and the folders are closed bottom-up.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

from hermetic.errors import HermeticError
from hermetic.store.blobs import Blobs
from hermetic.store.copying import canonical_mode
from hermetic.store.faults import refuse
from hermetic.store.hashing import Hit, Needles, hash_and_scan
from hermetic.store.layout import EPOCH_NS
from hermetic.store.walk import OPEN_FILE, OPEN_FOLDER, Descent, FileNode, FolderNode, Survey, unreadable

__all__ = ["Progress", "absorb", "check_targets", "close_folder", "close_folders", "open_top", "store_names"]

Progress = Callable[[int, int], None]

_LARGE = 1 << 22  # from here a thread of its own is worth its while
_HUGE = 1 << 26  # and from here a second one
_TELLING = 12  # a shorter path than this may occur in any text
_KEPT_ATTRIBUTES = ("security.selinux", "security.ima", "security.evm")  # the system's own; nobody can drop them


def open_top(path: str) -> int:
    """Open an output's folder. Raises `HermeticError` (build/output-missing, build/output-not-folder)."""
    try:
        return os.open(path, OPEN_FOLDER)
    except FileNotFoundError:
        raise refuse("output-missing", b"", "there is no output folder") from None
    except NotADirectoryError:
        raise refuse("output-not-folder", b"", "the output is not a folder") from None
    except OSError as error:
        raise unreadable(b"", error) from error


def check_targets(found: Survey, needles: Needles) -> None:
    """Refuse symlinks that name a store."""
    for folder in found.folders:
        for link in folder.links:
            if (hit := needles.find(link.target)) is not None:
                raise _names_a_store(folder.inside(link.name), hit, "its target")


def absorb(top: int, found: Survey, blobs: Blobs, needles: Needles, progress: Progress | None = None) -> None:
    """Hash every file of a surveyed tree, make it canonical and share it with the blobs; folders become writable.

    Raises `HermeticError` (build/output-…) naming the first file found wanting.
    """
    work = _Absorption(top, found, blobs, needles, progress)
    large: list[tuple[FolderNode, FileNode]] = []
    again: list[tuple[FolderNode, FileNode]] = []
    with Descent(top) as descent:
        for folder in found.folders:
            descriptor = descent.at(folder.parts)
            with _owned(folder.inside(b"")):
                _own_folder(descriptor)
            for file in folder.files:
                if work.is_again(file):
                    again.append((folder, file))
                elif file.size >= _LARGE:
                    large.append((folder, file))
                else:
                    work.file(descriptor, folder, file)
            for link in folder.links:
                with _owned(folder.inside(link.name)):
                    _own_link(link.name, descriptor)
        work.files_in_parallel(large)
        for folder, file in again:
            work.same_file(descent.at(folder.parts), file)


class _Absorption:
    def __init__(self, top: int, found: Survey, blobs: Blobs, needles: Needles, progress: Progress | None) -> None:
        self._top = top
        self._blobs = blobs
        self._needles = needles
        self._inside = Counter(file.inode for _, file in found.files() if file.inode is not None)
        self._first: dict[tuple[int, int], FileNode] = {}
        self._total = found.size
        self._done = 0
        self._progress = progress
        self._counting = threading.Lock()
        self._idle_cores = False

    def is_again(self, file: FileNode) -> bool:
        """Whether the same file was met under another name, with all of its names inside the tree.

        Two threads must not meet in one file: one would see the other make it canonical.
        """
        if file.inode is None or self._shared_outside(file):
            return False
        return self._first.setdefault(file.inode, file) is not file

    def _shared_outside(self, file: FileNode) -> bool:
        return file.inode is not None and file.links > self._inside[file.inode]

    def same_file(self, descriptor: int, file: FileNode) -> None:
        assert file.inode is not None
        file.digest = self._first[file.inode].digest
        assert file.digest is not None
        self._advance(file.size)
        self._blobs.share(descriptor, file.name, file.digest, file.size, executable=file.executable)

    def files_in_parallel(self, files: list[tuple[FolderNode, FileNode]]) -> None:
        cores = os.cpu_count() or 1
        self._idle_cores = len(files) < cores
        workers = min(len(files), cores)
        if workers < 2:
            for folder, file in files:
                self._far_file(folder, file)
            return
        # The largest first, so that no thread is left alone with it at the end.
        files.sort(key=lambda pair: -pair[1].size)
        with ThreadPoolExecutor(workers, "hermetic-ingest") as pool:
            tasks = [pool.submit(self._far_file, folder, file) for folder, file in files]
            done, waiting = wait(tasks, return_when=FIRST_EXCEPTION)
            for task in waiting:
                task.cancel()
            for task in done:
                task.result()

    def _far_file(self, folder: FolderNode, file: FileNode) -> None:
        with Descent(self._top) as descent:
            self.file(descent.at(folder.parts), folder, file)

    def file(self, descriptor: int, folder: FolderNode, file: FileNode) -> None:
        path = folder.inside(file.name)
        if self._shared_outside(file):
            # Whoever holds the other link could write into the store through it.
            self._blobs.detach(descriptor, file.name, executable=file.executable)
        try:
            opened = os.open(file.name, OPEN_FILE, dir_fd=descriptor)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            self._absorb(opened, path, file)
        finally:
            os.close(opened)
        assert file.digest is not None
        self._blobs.share(descriptor, file.name, file.digest, file.size, executable=file.executable)

    def _absorb(self, opened: int, path: bytes, file: FileNode) -> None:
        before = os.fstat(opened)
        if not stat.S_ISREG(before.st_mode) or before.st_size != file.size:
            raise _changed(path)
        try:
            apart = self._idle_cores and file.size >= _HUGE
            hashed = hash_and_scan(opened, file.size, self._needles, self._advance, idle_core=apart)
        except OSError as error:
            raise unreadable(path, error) from error
        after = os.fstat(opened)
        if hashed.size != file.size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise _changed(path)
        if hashed.hit is not None:
            raise _names_a_store(path, hashed.hit, f"it holds, {hashed.hit.offset:,} bytes in,")
        with _owned(path):
            _make_canonical(opened, before, canonical_mode(executable=file.executable))
        file.digest = hashed.digest

    def _advance(self, count: int) -> None:
        if self._progress is not None:
            with self._counting:
                self._done += count
                self._progress(self._done, self._total)


@contextmanager
def _owned(path: bytes) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        problem = "belongs to another user, or is protected against changes"
        raise refuse("output-unreadable", path, problem) from error


def _changed(path: bytes) -> HermeticError:
    return refuse(
        "output-changed", path, "changed while it was being hashed", "something is still writing to it; end it first"
    )


def _names_a_store(path: bytes, hit: Hit, where: str) -> HermeticError:
    needle = hit.needle.decode("utf-8", "backslashreplace")
    error = refuse(
        "output-store-path",
        path,
        f"{where} names {needle!r}, which would tie it to one machine's store",
        "let the stage write relative paths, or strip the path from what it writes",
    )
    error.data["offset"] = hit.offset
    return error


def _make_canonical(opened: int, status: os.stat_result, mode: int) -> None:
    _drop_attributes(opened)
    if status.st_uid != os.geteuid() or status.st_gid != os.getegid():
        os.fchown(opened, os.geteuid(), os.getegid())
    os.fchmod(opened, mode)  # after the owner: changing that clears bits of the mode
    os.utime(opened, ns=(EPOCH_NS, EPOCH_NS))


def _drop_attributes(opened: int) -> None:
    try:
        names = os.listxattr(opened)
    except OSError:  # a file system without attributes
        return
    for name in names:
        if name not in _KEPT_ATTRIBUTES:
            os.removexattr(opened, name)


def _own_folder(opened: int) -> None:
    status = os.fstat(opened)
    if status.st_uid != os.geteuid() or status.st_gid != os.getegid():
        os.fchown(opened, os.geteuid(), os.getegid())
    if stat.S_IMODE(status.st_mode) != 0o755:
        os.fchmod(opened, 0o755)
    _drop_attributes(opened)


def _own_link(name: bytes, folder: int) -> None:
    os.utime(name, ns=(EPOCH_NS, EPOCH_NS), dir_fd=folder, follow_symlinks=False)
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if status.st_uid != os.geteuid() or status.st_gid != os.getegid():
        os.chown(name, os.geteuid(), os.getegid(), dir_fd=folder, follow_symlinks=False)


def close_folders(top: int, found: Survey) -> None:
    """Give every folder but the top its canonical mode and time, the innermost first.

    The top stays writable: who is not root cannot move a 0555 folder.
    """
    with Descent(top) as descent:
        for folder in reversed(found.folders[1:]):
            close_folder(descent.at(folder.parts))


def close_folder(opened: int) -> None:
    """Canonical mode and time for one folder, in which nothing changes any more."""
    os.fchmod(opened, 0o555)
    os.utime(opened, ns=(EPOCH_NS, EPOCH_NS))


def store_names(root: str, forbid: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """What no output may hold: Nix's store, this one under every name we know, and what the caller adds."""
    ours = {os.fsencode(root), os.fsencode(os.path.realpath(root))}
    # Every further string costs a tenth of the speed of an ingest, so there is one for each name of the store.
    places = [name + (b"/" if len(name) >= _TELLING else b"/store/") for name in sorted(ours)]
    return (b"/nix/store/", *places, *forbid)
