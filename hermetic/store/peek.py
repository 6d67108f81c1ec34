"""Is this key in place? The one question of a command that finds everything done, answered with `os` alone.

The full store answers it too (`Store.realisation`), but importing it costs more than the whole of such a command may
take. A wrong "no" only makes the command slower; there is no wrong "yes".
"""

from __future__ import annotations

import os

__all__ = ["path", "realised", "rooted"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def realised(root: str, key_hex: str, name: str) -> bool:
    """Whether the store at `root` holds the realised output of this key, and no other boot left anything unsure."""
    try:
        os.stat(f"{root}/realisations/{key_hex[:2]}/{key_hex}")
        os.stat(path(root, key_hex, name))
        boots = os.listdir(f"{root}/pending")
    except OSError:
        return False
    return not boots or _only_this_boot(boots)


def path(root: str, key_hex: str, name: str) -> str:
    """The store path of a key, whether or not it exists."""
    first = int(key_hex[:40], 16)
    base32 = "".join(_ALPHABET[first >> shift & 31] for shift in range(155, -1, -5))
    return f"{root}/store/{base32}-{name}"


def rooted(root: str, link: str, output: str) -> bool:
    """Whether `link` is a root of the store at `root` that points at `output`."""
    from blake3 import blake3  # noqa: PLC0415  # only where a link is asked for

    try:
        if os.readlink(link) != output:
            return False
        place = os.path.join(os.path.realpath(os.path.dirname(link)), os.path.basename(link))
        os.stat(f"{root}/roots/{blake3(os.fsencode(place)).hexdigest()}")
    except OSError:
        return False
    return True


def _only_this_boot(boots: list[str]) -> bool:
    boot = os.environ.get("HERMETIC_TEST_BOOT_ID")
    if not boot:
        descriptor = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
        try:
            boot = os.read(descriptor, 64).decode("ascii").strip()
        finally:
            os.close(descriptor)
    return boots == [boot]
