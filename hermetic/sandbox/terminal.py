"""A pseudo-terminal between the user's terminal and a program in a sandbox.

The program never gets the user's own terminal: with it, it could type for them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
import tty
from typing import Final, Self

__all__ = ["CLAIM", "Terminal", "write_all"]

#: For `python -c`: makes standard input the controlling terminal, without which there is no job control and no Ctrl-C.
CLAIM: Final = (
    "import fcntl, os, sys, termios\n"
    "os.setsid()\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])\n"
)

_SIZE: Final = struct.Struct("HHHH")


class Terminal:
    """While it is entered the user's terminal is raw, and what is typed goes to `ends`; needs a running event loop.

    `ends` are the master's and the slave's descriptor; whoever runs the program closes them.
    """

    def __init__(self) -> None:
        self.ends = os.openpty()
        os.set_inheritable(self.ends[0], False)
        self._typing = os.dup(self.ends[0])
        self._user = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._user)
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._resize()
        tty.setraw(self._user, termios.TCSANOW)  # what was typed ahead is not thrown away
        self._loop.add_reader(self._user, self._typed)
        self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._user)
        self._loop.remove_signal_handler(signal.SIGWINCH)
        termios.tcsetattr(self._user, termios.TCSANOW, self._before)  # not to wait for who reads the screen
        os.close(self._typing)

    def show(self, data: bytes) -> None:
        """Write what the program printed to the user's terminal."""
        write_all(sys.stdout.fileno(), data)

    def _typed(self) -> None:
        data = os.read(self._user, 1 << 12)
        if not data:  # the user's terminal has gone
            self._loop.remove_reader(self._user)
            data = termios.tcgetattr(self._typing)[6][termios.VEOF]
        os.write(self._typing, data)

    def _resize(self) -> None:
        size = fcntl.ioctl(self._user, termios.TIOCGWINSZ, bytes(_SIZE.size))
        fcntl.ioctl(self._typing, termios.TIOCSWINSZ, size)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, which one system call may not."""
    while data:
        data = data[os.write(descriptor, data) :]
