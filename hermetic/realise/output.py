"""A stage's output as it comes, cut into lines."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Lines"]

_LONGEST = 4096  # bytes of a line that is worth showing


class Lines:
    """Calls `tell` with each whole line; a carriage return ends one too, since progress bars use nothing else."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *whole, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[-_LONGEST:]
        for line in whole:
            if line.strip():
                self._tell(line[:_LONGEST].decode("utf-8", "replace"))
