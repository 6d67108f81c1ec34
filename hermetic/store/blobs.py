"""``blobs/``: one more hard link to every distinct file, so that equal files are stored once.

A blob is a hint. It is never believed by its name: before a file is replaced by it, its size, mode and time must be
those that the store gave it, and its bytes are hashed again. Otherwise a file that rotted, or that somebody changed
through one output, would come back with every rebuild.
"""

from __future__ import annotations

import errno
import os
import stat

from hermetic.digest import BlobDigest
from hermetic.store.copying import canonical_mode, clone
from hermetic.store.hashing import NO_NEEDLES, hash_and_scan
from hermetic.store.layout import EPOCH_NS, Layout, make_folders
from hermetic.store.syncpoint import reach
from hermetic.store.walk import OPEN_FILE

__all__ = ["Blobs"]

_CANNOT_LINK = frozenset({errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP})


class Blobs:
    """Gives files of one ingest to the blobs, and blobs to the ingest.

    `scratch` is a folder of the run's own on the store's file system, `made` the blobs that did not exist before.
    """

    def __init__(self, layout: Layout, scratch: int) -> None:
        self._layout = layout
        self._scratch = scratch
        self.made: list[str] = []

    def share(self, folder: int, name: bytes, digest: BlobDigest, size: int, *, executable: bool) -> None:
        """Make the file `name` and its blob one file.

        Where no hard link can be had the blob becomes a reflink, or else there is none: a second copy would double the
        size of the store for a hint.
        """
        blob = self._layout.blob(digest, executable=executable)
        while True:
            try:
                self._offer(folder, name, blob)
                self.made.append(blob)
            except FileExistsError:
                if not self._take(folder, name, blob, digest, size, executable=executable):
                    continue
            except OSError as error:
                if error.errno not in _CANNOT_LINK and error.errno != errno.EMLINK:
                    raise
                self._reflink(folder, name, blob, executable=executable)
            reach("blob.after-share")
            return

    def _offer(self, folder: int, name: bytes, blob: str) -> None:
        try:
            os.link(name, blob, src_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            make_folders(os.path.dirname(blob))
            os.link(name, blob, src_dir_fd=folder, follow_symlinks=False)

    def _take(self, folder: int, name: bytes, blob: str, digest: BlobDigest, size: int, *, executable: bool) -> bool:
        """Replace the file by its blob, or a blob that cannot be used by the file; False when the blob is gone."""
        try:
            status = os.lstat(blob)
        except FileNotFoundError:
            return False
        ours = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if os.path.samestat(status, ours):
            return True
        mode = canonical_mode(executable=executable)
        if not (_plausible(status, size, mode, ours.st_uid) and _holds(blob, digest, size)):
            return self._replace(folder, name, blob)
        temporary = os.urandom(8).hex()
        try:
            os.link(blob, temporary, dst_dir_fd=self._scratch, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.EMLINK:  # the file, which nothing links to yet, takes over as the blob
                return self._replace(folder, name, blob)
            if error.errno in _CANNOT_LINK:
                return True
            raise
        os.rename(temporary, name, src_dir_fd=self._scratch, dst_dir_fd=folder)
        return True

    def _replace(self, folder: int, name: bytes, blob: str) -> bool:
        temporary = os.urandom(8).hex()
        try:
            os.link(name, temporary, src_dir_fd=folder, dst_dir_fd=self._scratch, follow_symlinks=False)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return True
            raise
        os.rename(temporary, blob, src_dir_fd=self._scratch)
        self.made.append(blob)
        return True

    def _reflink(self, folder: int, name: bytes, blob: str, *, executable: bool) -> None:
        source = os.open(name, OPEN_FILE, dir_fd=folder)
        temporary = os.urandom(8).hex()
        try:
            if clone(source, temporary, self._scratch, executable=executable, share_only=True):
                os.rename(temporary, blob, src_dir_fd=self._scratch)
                self.made.append(blob)
        finally:
            os.close(source)

    def detach(self, folder: int, name: bytes, *, executable: bool) -> None:
        """Replace a file that has links outside the tree by a copy nobody else can reach."""
        source = os.open(name, OPEN_FILE, dir_fd=folder)
        temporary = os.urandom(8).hex()
        try:
            clone(source, temporary, self._scratch, executable=executable)
        finally:
            os.close(source)
        os.rename(temporary, name, src_dir_fd=self._scratch, dst_dir_fd=folder)

    def forget(self) -> None:
        """Unlink the blobs that this ingest made: it failed, and nothing else should keep its bytes."""
        for blob in self.made:
            try:
                os.unlink(blob)
            except FileNotFoundError:
                continue
        self.made.clear()


def _holds(blob: str, digest: BlobDigest, size: int) -> bool:
    try:
        opened = os.open(blob, OPEN_FILE)
    except OSError:
        return False
    try:
        return hash_and_scan(opened, size, NO_NEEDLES).digest == digest
    except OSError:  # it cannot be read any more; ours can
        return False
    finally:
        os.close(opened)


def _plausible(status: os.stat_result, size: int, mode: int, owner: int) -> bool:
    """Whether a blob still looks as the store made it. Another owner's file is one that they could change."""
    return (
        stat.S_ISREG(status.st_mode)
        and stat.S_IMODE(status.st_mode) == mode
        and status.st_size == size
        and status.st_mtime_ns == EPOCH_NS
        and status.st_uid == owner
    )
