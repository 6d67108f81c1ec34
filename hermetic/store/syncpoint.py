"""Named points between two steps of the store, at which a test can freeze or kill the process.

``HERMETIC_TEST_SYNC=NAME:kill`` kills this process with SIGKILL when it reaches NAME; ``NAME#3:kill`` the third time
that it does. ``NAME:/path/of/fifo`` writes the name into the fifo, then waits until somebody opens the fifo for
writing: the test reads to the end of file, does what it wants to do in between, then opens the fifo for writing.
Without the variable a point costs two comparisons.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable

__all__ = ["listen", "reach"]

_where, _, _action = os.environ.get("HERMETIC_TEST_SYNC", "").partition(":")
_name, _, _count = _where.partition("#")
_times = itertools.count(1)
_hear: Callable[[str], object] | None = None


def listen(hear: Callable[[str], object]) -> None:
    """Have `hear` called with the name of every point that this process reaches, in the thread that does."""
    global _hear  # noqa: PLW0603  # a module of the process, as the variable is
    _hear = hear


def reach(name: str) -> None:
    """Say that the step called `name` is done."""
    if _hear is not None:
        _hear(name)
    if name == _name and next(_times) == int(_count or 1):
        _stop(name)


def _stop(name: str) -> None:
    if _action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(_action, "w", encoding="utf-8") as fifo:
        fifo.write(name + "\n")
    with open(_action, encoding="utf-8") as fifo:
        fifo.read()
