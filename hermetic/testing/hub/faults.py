"""What may go wrong with an answer of the stand-in Hub."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

__all__ = ["Fault"]


@dataclass
class Fault:
    """One thing that goes wrong with the next `times` requests whose path matches `path` (a regular expression).

    At most one of these: `status`, an answer with that code (and `headers`, such as ``Retry-After``); `cut`, the
    connection ends after that many bytes of the body; `corrupt`, the body has its right length and its first byte
    wrong; `hold`, the body stops after that many bytes until `release` is called; `mute`, no answer at all until then;
    `pace`, that many bytes a second. `seen` is set when the fault has struck, for `hold` when the body has stopped.
    """

    path: str = ""
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    corrupt: bool = False
    hold: int | None = None
    mute: bool = False
    pace: int = 0
    method: str = "GET"
    seen: threading.Event = field(default_factory=threading.Event)
    _go_on: threading.Event = field(default_factory=threading.Event)

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one of them; call it once a request."""
        if self.times <= 0 or method != self.method or re.search(self.path, path) is None:
            return False
        self.times -= 1
        return True

    def release(self) -> None:
        """Let what is held go on."""
        self._go_on.set()

    def wait(self, seconds: float | None = None) -> None:
        """Until `release`, or for `seconds`."""
        self._go_on.wait(seconds)
