"""File digests that are remembered by what the file system says of the file.

A digest is reused only while device, inode, size, mtime, ctime and mode are what they were when it was computed, and
only if the file had been left alone for two seconds then: a change within one clock tick of the file system would
otherwise go unseen. ctime cannot be set back by a user, so an edit that restores the mtime is noticed too.
"""

from __future__ import annotations

import json
import os
import stat
import time
from typing import TypeAlias

from hermetic.digest import BlobDigest, hash_descriptor

__all__ = ["Memo", "Signature", "is_settled", "signature"]

Signature: TypeAlias = tuple[int, int, int, int, int, int]

_SETTLED_NS = 2_000_000_000
#: Bytes from which a digest is worth a line in the file: reading that line costs 15 µs, hashing so much about as long.
_WORTH = 1 << 15
#: Digests beyond which only those of this run are written, so that the file does not grow for ever.
_MOST = 20_000


def signature(status: os.stat_result) -> Signature:
    """Everything that changes when a file or a folder's list of names does."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
    )


def is_settled(mark: Signature, now_ns: int) -> bool:
    """Whether a file with this signature has been left alone long enough for the signature to be believed.

    Tests that write a file and cannot wait set ``HERMETIC_TEST_SETTLED``.
    """
    if os.environ.get("HERMETIC_TEST_SETTLED"):
        return True
    return now_ns - max(mark[3], mark[4]) >= _SETTLED_NS


class Memo:
    """Digests by path, kept in one JSON file between runs.

    `observed` collects the signature of everything that was looked at in this run (None: it was not there), by path
    and whether symlinks were followed; the evaluation cache is valid while all of them still hold.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self.observed: dict[tuple[str, bool], Signature | None] = {}
        self._known: dict[str, tuple[Signature, str]] = {}
        self._dirty = False
        if file is not None:
            self._read(file)

    def observe(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        """Look at `path` and remember its signature."""
        try:
            status = os.stat(path, follow_symlinks=follow)
        except (FileNotFoundError, NotADirectoryError):
            self.observed[path, follow] = None
            return None
        self.observed[path, follow] = signature(status)
        return status

    def blob(self, path: str) -> tuple[BlobDigest, int, bool]:
        """Digest, size in bytes and executable bit of the regular file at `path` (symlinks are followed).

        Raises `OSError` if it cannot be read.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            mark = signature(status)
            self.observed[path, True] = mark
            executable = bool(status.st_mode & stat.S_IXUSR)
            known = self._known.get(path)
            if known is not None and known[0] == mark:
                return BlobDigest(known[1]), status.st_size, executable
            digest, size = hash_descriptor(descriptor)
            still = signature(os.fstat(descriptor)) == mark
            if size >= _WORTH and still and is_settled(mark, time.time_ns()):
                self._known[path] = (mark, digest.hex)
                self._dirty = True
            return digest, size, executable
        finally:
            os.close(descriptor)

    def save(self) -> None:
        """Write what was learnt. A cache that cannot be written is no error: it costs time, never correctness."""
        if self.file is None or not self._dirty:
            return
        temporary = f"{self.file}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self.file), exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as stream:
                json.dump({path: [list(mark), digest] for path, (mark, digest) in self._worth_keeping()}, stream)
            os.replace(temporary, self.file)
        except OSError:
            return
        self._dirty = False

    def _worth_keeping(self) -> list[tuple[str, tuple[Signature, str]]]:
        if len(self._known) <= _MOST:
            return list(self._known.items())
        return [(path, known) for path, known in self._known.items() if (path, True) in self.observed]

    def _read(self, file: str) -> None:
        try:
            with open(file, encoding="utf-8") as stream:
                known = json.load(stream)
            self._known = {path: (_as_signature(mark), digest) for path, (mark, digest) in known.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}


def _as_signature(mark: list[int]) -> Signature:
    device, inode, size, mtime, ctime, mode = mark
    return device, inode, size, mtime, ctime, mode
