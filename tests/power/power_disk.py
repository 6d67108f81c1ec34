"""A disk that writes down everything it is told: ``power_disk.py IMAGE LOG FOLDER`` mounts it at FOLDER with FUSE.

FOLDER/disk shows the bytes of IMAGE; a loop device over it carries a file system. LOG becomes the sequence of writes,
flushes and marks, in the order in which they were acknowledged: one request at a time, so everything that was finished
before a flush began stands before it. Whatever a program writes into FOLDER/mark is a mark at that place. Prints a line
once it is mounted, and ends when it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

import mfusepy
from power_log import FLUSH, MARK, WRITE, encode

DISK, NOTES = "/disk", "/mark"


class Disk(mfusepy.Operations):
    """No discard and no punched holes: the loop device then offers none, and every change is a write."""

    use_ns = True

    def __init__(self, image: str, log: str) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._size = os.fstat(self._image).st_size
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def init(self, path: str) -> None:
        os.write(1, b"mounted\n")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        match path:
            case "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            case "/disk":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}
            case "/mark":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def open(self, path: str, flags: int) -> int:
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if path == NOTES:
            self._note(MARK, 0, data)
        else:
            os.pwrite(self._image, data, offset)
            self._note(WRITE, offset, data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        if path == DISK:
            self._note(FLUSH, 0, b"")
        return 0

    def _note(self, kind: bytes, offset: int, data: bytes) -> None:
        os.writev(self._log, [encode(kind, offset, len(data)), data])


if __name__ == "__main__":
    image, log, folder = sys.argv[1:]
    mfusepy.FUSE(Disk(image, log), folder, foreground=True, nothreads=True, direct_io=True)
