"""Telling systemd that a service is ready (sd_notify(3)), if it asked to be told."""

from __future__ import annotations

import os
import socket

from hermetic.errors import Domain, HermeticError

__all__ = ["tell_ready"]


def tell_ready() -> None:
    """Send ``READY=1`` to ``NOTIFY_SOCKET``, a path or, with an @ in front, a name; without that variable do nothing.

    Raises `HermeticError` (environment/notify-failed): systemd would wait, and then stop what works.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"READY=1", f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            message = f"systemd cannot be told at NOTIFY_SOCKET={address}: {error.strerror}"
            raise HermeticError(Domain.ENVIRONMENT, "notify-failed", message, hint="NotifyAccess=main") from error
