"""How the proxy serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ProxySettings", "Thinking"]

Thinking = Literal["separate", "strip", "keep"]


@dataclass(frozen=True)
class ProxySettings:
    """`concurrent` answers are computed at once, `waiting` requests wait for that, `wait_s` seconds each; a request has
    `deadline_s` seconds in all. `body_bytes` is the longest body. `thinking` is what becomes of ``<think>`` for models
    that write it: ``reasoning_content``, nothing, or the text as it is. `keys` are those that clients may show; without
    any, none is asked for. `drain_s` is how long requests that run may take to end once the server is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 9000
    concurrent: int = 64
    waiting: int = 256
    wait_s: float = 30.0
    deadline_s: float = 600.0
    body_bytes: int = 4 << 20
    thinking: Thinking = "separate"
    keys: tuple[str, ...] = ()
    drain_s: int = 30
