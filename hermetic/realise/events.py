"""What a realisation tells whoever watches: the live tree, plain lines, JSON, a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["FINAL", "Event", "Listener"]

#: States after which nothing more is heard of a stage.
FINAL = frozenset({"in-place", "adopted", "built", "fetched", "failed", "skipped"})


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    `kind` is ``plan`` (what will be done), ``warning`` (a ``message`` before it begins), ``state`` (a stage is now
    waiting, preparing, building, fetching, storing, or in one of `FINAL`), ``progress`` (bytes so far, and of how many
    if known), ``output`` (what the stage printed) or ``result`` (the store paths). `at` is seconds since the epoch.
    """

    kind: str
    stage: str = ""
    key: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)

    def as_json(self) -> dict[str, Any]:
        head = {"event": self.kind, "at": round(self.at, 3)}
        if self.stage:
            head |= {"stage": self.stage, "key": self.key}
        return head | self.data


Listener: TypeAlias = Callable[[Event], None]
