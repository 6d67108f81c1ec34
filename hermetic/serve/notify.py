"""Telling systemd that a service is ready, or reads its configuration again (sd_notify(3)), if it asked to be told."""

from __future__ import annotations

import os
import socket
import time

from hermetic.errors import Domain, HermeticError

__all__ = ["tell_ready", "tell_reloading"]


def tell_ready() -> None:
    """Send ``READY=1``.

    Raises `HermeticError` (environment/notify-failed): systemd would wait, and then stop what works.
    """
    _tell("READY=1")


def tell_reloading() -> None:
    """Send ``RELOADING=1`` with the time, as ``Type=notify-reload`` wants it; `tell_ready` ends it. Raises as that."""
    _tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def _tell(state: str) -> None:
    """To ``NOTIFY_SOCKET``, a path or, with an @ in front, a name; without that variable do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            message = f"systemd cannot be told at NOTIFY_SOCKET={address}: {error.strerror}"
            raise HermeticError(Domain.ENVIRONMENT, "notify-failed", message, hint="NotifyAccess=main") from error
