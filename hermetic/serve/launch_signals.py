"""Ctrl-C and SIGTERM for servers: the first lets what runs come to its end, the second does not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopping", "stopping"]


class Stopping:
    """`told` is set by the first signal once `gentle` is set; any other signal cancels the task."""

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.gentle = False
        self.told = asyncio.Event()
        self._task = task

    def hear(self) -> None:
        if self.gentle and not self.told.is_set():
            self.told.set()
        else:
            self._task.cancel()


@contextmanager
def stopping() -> Iterator[Stopping]:
    """For the task that calls it. A cancelled one leaves as `KeyboardInterrupt`."""
    task = asyncio.current_task()
    assert task is not None
    state, loop = Stopping(task), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, state.hear)
    try:
        yield state
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
