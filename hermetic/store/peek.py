"""Is this key in place? What a command asks that finds everything done or only plans, answered with `os` alone.

The full store answers it too (`Store.realisation`), but importing it costs more than the whole of such a command may
take. A wrong "no" only makes the command slower; there is no wrong "yes".
"""

from __future__ import annotations

import os

__all__ = ["KEY", "Lookup", "free", "has_history", "is_sure", "path", "realised", "rooted", "usable"]

KEY = 32  # characters of the key in a store path's name

_FORMAT = b"hermetic store 1\n"  # as hermetic.store.layout has it, which imports more
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def realised(root: str, key_hex: str, name: str) -> bool:
    """Whether the store at `root` holds the realised output of this key, and no other boot left anything unsure."""
    try:
        os.stat(f"{root}/realisations/{key_hex[:2]}/{key_hex}")
        os.stat(path(root, key_hex, name))
    except OSError:
        return False
    return is_sure(root)


class Lookup:
    """The same question about many keys of one store that `is_sure`: each folder of records is listed once."""

    __slots__ = ("_names", "_root")

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, set[str]] = {}

    def __call__(self, key_hex: str, output: str) -> bool:
        """`output` is the name that the key's output has in ``store/``."""
        prefix = key_hex[:2]
        if prefix not in self._names:
            self._names[prefix] = set(_names(f"{self._root}/realisations/{prefix}"))
        return key_hex in self._names[prefix] and os.path.isdir(f"{self._root}/store/{output}")


def usable(root: str) -> bool:
    """Whether there is a store at `root` that this version reads."""
    with open(f"{root}/format", "rb") as file:
        return file.read(len(_FORMAT) + 1) == _FORMAT


def is_sure(root: str) -> bool:
    """Whether no other boot left anything behind that has not been looked at yet."""
    try:
        boots = os.listdir(f"{root}/pending")
    except OSError:
        return False
    return not boots or _only_this_boot(boots)


def free(root: str) -> int:
    """Bytes that are free where the store lies; the whole disk's would be wrong for who is not root."""
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize


def has_history(root: str) -> bool:
    """Whether anything was ever built or realised here."""
    return any(os.listdir(f"{root}/{name}") for name in ("derivations", "builds"))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


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
