"""Lets a helper process die with the driver, whatever the driver dies of."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

__all__ = ["dies_with_driver"]

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def dies_with_driver() -> Callable[[], None]:
    """A `preexec_fn`. The kernel ties it to the thread that forks, so use it from the main thread."""
    driver = os.getpid()

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != driver:
            os._exit(1)

    return prepare
