"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket

__all__ = ["free_ports"]

_LOWEST, _HIGHEST = 15000, 32000  # below those that Linux gives to whoever asks for any: 32768 and up


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different. Minutes may pass before they are taken, beside others
    that ask the kernel for any.
    """
    found: list[int] = []
    for port in random.sample(range(_LOWEST, _HIGHEST), _HIGHEST - _LOWEST):
        if len(found) == count:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found
