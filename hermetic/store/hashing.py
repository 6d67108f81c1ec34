"""Hashing a file and looking for forbidden strings in it, in one reading."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from blake3 import blake3

from hermetic.digest import BlobDigest

__all__ = ["Hashed", "Hit", "Needles", "hash_and_scan"]

READ = 1 << 20
_INLINE = 1 << 17  # up to here one read and bytes.find are the quickest


class Hit(NamedTuple):
    """A forbidden string and where it begins, in bytes."""

    needle: bytes
    offset: int


class Hashed(NamedTuple):
    digest: BlobDigest
    size: int
    hit: Hit | None


class Needles:
    """Strings that may not occur."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self.all = tuple(dict.fromkeys(needle for needle in needles if needle))
        self.overlap = max((len(needle) for needle in self.all), default=1) - 1

    def find(self, data: bytes) -> Hit | None:
        for needle in self.all:
            if (offset := data.find(needle)) >= 0:
                return Hit(needle, offset)
        return None

    def find_at(self, address: int, length: int) -> Hit | None:
        """The same in `length` bytes of memory, without holding the interpreter: bytes.find is four times slower."""
        for needle in self.all:
            if place := _memmem()(address, length, needle, len(needle)):
                return Hit(needle, place - address)
        return None


@functools.cache
def _memmem() -> Callable[[int, int, bytes, int], int | None]:
    function = ctypes.CDLL(None).memmem
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    return function


def hash_and_scan(descriptor: int, size: int, needles: Needles, advance: Callable[[int], None] | None = None) -> Hashed:
    """BLAKE3, length and first forbidden string of an open file, read from its current offset to the end.

    `size` is what the file is expected to hold; `advance` is told of every piece of bytes that is done.
    """
    if size <= _INLINE:
        data = os.read(descriptor, _INLINE + 1)
        if len(data) == size:
            if advance is not None:
                advance(size)
            return Hashed(BlobDigest(blake3(data).hexdigest()), size, needles.find(data))
        os.lseek(descriptor, 0, os.SEEK_SET)
    return _hash_large(descriptor, needles, advance)


def _hash_large(descriptor: int, needles: Needles, advance: Callable[[int], None] | None) -> Hashed:
    keep = needles.overlap
    buffer = bytearray(keep + READ)
    address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    view = memoryview(buffer)
    fresh = view[keep:]
    hasher, size, hit = blake3(), 0, None
    while count := os.readv(descriptor, [fresh]):
        hasher.update(fresh[:count])
        if hit is None:
            # What was kept of the last piece lies before the fresh one, so no string hides across the border.
            before = min(keep, size)
            found = needles.find_at(address + keep - before, before + count)
            hit = found and Hit(found.needle, size - before + found.offset)
        tail = min(keep, size + count)
        view[keep - tail : keep] = bytes(view[keep + count - tail : keep + count])
        size += count
        if advance is not None:
            advance(count)
    return Hashed(BlobDigest(hasher.hexdigest()), size, hit)
