"""Is this key in place? The one question of a command that finds everything done, answered with `os` alone.

The full store answers it too (`Store.realisation`), but importing it costs more than the whole of such a command may
take. A wrong "no" only makes the command slower; there is no wrong "yes".
"""

from __future__ import annotations

import os

__all__ = ["realised"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def realised(root: str, key_hex: str, name: str) -> bool:
    """Whether the store at `root` holds the realised output of this key, and no other boot left anything unsure."""
    first = int(key_hex[:40], 16)
    base32 = "".join(_ALPHABET[first >> shift & 31] for shift in range(155, -1, -5))
    try:
        os.stat(f"{root}/realisations/{key_hex[:2]}/{key_hex}")
        os.stat(f"{root}/store/{base32}-{name}")
        boots = os.listdir(f"{root}/pending")
    except OSError:
        return False
    return not boots or _only_this_boot(boots)


def _only_this_boot(boots: list[str]) -> bool:
    boot = os.environ.get("HERMETIC_TEST_BOOT_ID")
    if not boot:
        descriptor = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
        try:
            boot = os.read(descriptor, 64).decode("ascii").strip()
        finally:
            os.close(descriptor)
    return boots == [boot]
