"""How much of the disk a running stage takes, by looking: no quota is needed, so it works on every file system.

Between two looks a stage can write what the disk takes in that time. A single file is stopped at the limit by the
kernel (``RLIMIT_FSIZE``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from hermetic.sandbox import abi

__all__ = ["Watch", "used"]

_SOONEST: Final = 0.25  # seconds between two looks
_SHARE: Final = 10  # a look may take this part of the time
_BLOCK: Final = 512  # bytes; the unit of st_blocks


class Watch:
    """Watches the workspace of one stage; `most` is the most bytes seen. `processes` are the stage's."""

    def __init__(self, workspace: str, limit: int, processes: Callable[[], list[int]]) -> None:
        self.most = 0
        self._workspace = workspace
        self._limit = limit
        self._processes = processes
        self._took = 0.0

    async def over(self) -> None:
        """Returns when the workspace holds more than the limit."""
        while not await asyncio.to_thread(self.look):  # noqa: ASYNC110  # a disk tells nobody
            await asyncio.sleep(max(_SOONEST, _SHARE * self._took))

    def look(self) -> bool:
        """Whether the limit is reached, of which the kernel stops a single file short."""
        started = time.monotonic()
        self.most = max(self.most, used(self._workspace, self._processes()))
        self._took = time.monotonic() - started
        return self.most >= self._limit


def used(workspace: str, processes: list[int]) -> int:
    """Bytes that files of the stage take on the disk, those included that are deleted and still open."""
    seen: dict[tuple[int, int], int] = {}
    for name in abi.WORKSPACE_WRITABLE:
        seen |= {(status.st_dev, status.st_ino): status.st_blocks for status in _below(f"{workspace}/{name}")}
    device = os.stat(workspace).st_dev
    for pid in processes:
        seen |= {(device, status.st_ino): status.st_blocks for status in _deleted(pid, device)}
    return sum(seen.values()) * _BLOCK


def _below(folder: str) -> Iterator[os.stat_result]:
    with suppress(OSError), os.scandir(folder) as entries:  # gone meanwhile, or closed to us
        for entry in entries:
            with suppress(OSError):
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(entry.path)


def _deleted(pid: int, device: int) -> Iterator[os.stat_result]:
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{number}")
                if status.st_nlink == 0 and status.st_dev == device:
                    yield status
