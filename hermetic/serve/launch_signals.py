"""Signals of servers. Ctrl-C and SIGTERM: the first lets what runs come to its end, the second does not. SIGHUP: read
again what can be read again, unless it says that the terminal has gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Stopping", "stopping"]


class Stopping:
    """`told` is set by the first signal once `gentle` is set; any other signal to end cancels the task. `again` is set
    when configuration is to be read again.
    """

    def __init__(self, task: asyncio.Task[object], has_terminal: Callable[[], bool]) -> None:
        self.gentle = False
        self.told = asyncio.Event()
        self.again = asyncio.Event()
        self._task = task
        self._has_terminal = has_terminal
        self._had_terminal = has_terminal()

    def hear(self) -> None:
        if self.gentle and not self.told.is_set():
            self.told.set()
        else:
            self._task.cancel()

    def hang_up(self) -> None:
        """The kernel sends the same signal when a terminal is closed; then there is none any more."""
        if self._had_terminal and not self._has_terminal():
            self.hear()
        else:
            self.again.set()


@contextmanager
def stopping() -> Iterator[Stopping]:
    """For the task that calls it. A cancelled one leaves as `KeyboardInterrupt`."""
    task = asyncio.current_task()
    assert task is not None
    state, loop = Stopping(task, _has_terminal), asyncio.get_running_loop()
    heard = {signal.SIGINT: state.hear, signal.SIGTERM: state.hear, signal.SIGHUP: state.hang_up}
    for number, hear in heard.items():
        loop.add_signal_handler(number, hear)
    try:
        yield state
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal (tty(4)) whose end is its own: nohup says that it is not."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
