"""Markers of runs whose results may not be on the disk yet: ``pending/<boot id>/<run>``.

A run writes and syncs one before its first realisation, and one ``syncfs`` at its end makes everything durable at
once, so no stage waits for the disk. Within one boot the page cache is whole whoever died, so only the markers of
another boot raise doubts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hermetic.store.layout import Layout, write_atomic

__all__ = ["Pending", "sync_file_system"]


class Pending:
    def __init__(self, layout: Layout, boot: str) -> None:
        self._layout = layout
        self.boot = boot

    def mark(self, run: str) -> None:
        """Announce that `run` is going to realise things. On the disk when this returns."""
        write_atomic(self._layout, self._path(self.boot, run), b"", durable=True)

    def clear(self, runs: Iterable[str]) -> None:
        """Take back the markers of this boot's `runs`, everything of which is on the disk."""
        for run in runs:
            _unlink(self._path(self.boot, run))
        self._drop_folder(self.boot)

    def of_this_boot(self) -> list[str]:
        return _names(f"{self._layout.root}/pending/{self.boot}")

    def of_other_boots(self) -> dict[str, str]:
        """Runs of which nothing is sure, each with its boot."""
        boots = _names(f"{self._layout.root}/pending")
        return {
            run: boot for boot in boots if boot != self.boot for run in _names(f"{self._layout.root}/pending/{boot}")
        }

    def started(self, run: str, boot: str) -> int | None:
        """When a marker was written, in nanoseconds of the file system's clock; None when it is gone."""
        try:
            return os.stat(self._path(boot, run)).st_ctime_ns
        except FileNotFoundError:
            return None

    def settle(self, runs: dict[str, str]) -> None:
        """Take back markers of other boots: their runs were looked at, and what was not whole is gone."""
        for run, boot in runs.items():
            _unlink(self._path(boot, run))
        for boot in _names(f"{self._layout.root}/pending"):
            if boot != self.boot:
                self._drop_folder(boot)

    def _path(self, boot: str, run: str) -> str:
        return f"{self._layout.root}/pending/{boot}/{run}"

    def _drop_folder(self, boot: str) -> None:
        try:
            os.rmdir(f"{self._layout.root}/pending/{boot}")
        except OSError:  # another run's marker is in there
            return


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def sync_file_system(path: str) -> None:
    """``syncfs``: everything written to the file system of `path` is on the disk when this returns.

    Raises `OSError` when something could not be written.
    """
    import ctypes  # noqa: PLC0415  # only who has built something comes here

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(descriptor)
