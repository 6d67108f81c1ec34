"""Hashing a file and looking for forbidden strings in it, in one reading."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from blake3 import blake3

from hermetic.digest import BlobDigest

__all__ = ["NO_NEEDLES", "Hashed", "Hit", "Needles", "hash_and_scan"]

READ = 1 << 19  # a piece is looked at several times, so it should stay in the processor's cache
_INLINE = 1 << 17  # up to here one read and bytes.find are the quickest
_WORD = 4  # bytes of a wchar_t; a string of 7 has a whole aligned one wherever it lies
_SHORT = range(2 * _WORD - 1, 24)  # lengths at which memmem skips too little: 6 GB/s, where four searches do 11


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
            if len(needle) in _SHORT and not _may_hold(address, length, needle):
                continue
            if place := _libc().memmem(address, length, needle, len(needle)):
                return Hit(needle, place - address)
        return None


NO_NEEDLES = Needles([])


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.memmem.restype = library.wmemchr.restype = ctypes.c_void_p
    library.memmem.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    library.wmemchr.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t]
    return library


def _may_hold(address: int, length: int, needle: bytes) -> bool:
    """False when no aligned word in memory is one of the four that begin the needle, so that it cannot be there."""
    start = -(-address // _WORD) * _WORD
    count = max(0, address + length - start) // _WORD
    return any(_libc().wmemchr(start, word, count) for word in _words(needle))


@functools.cache
def _words(needle: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(needle[first : first + _WORD], sys.byteorder) for first in range(_WORD))


def hash_and_scan(
    descriptor: int,
    size: int,
    needles: Needles,
    advance: Callable[[int], None] | None = None,
    *,
    idle_core: bool = False,
) -> Hashed:
    """BLAKE3, length and first forbidden string of an open file, read from its beginning to the end.

    `size` is what the file is expected to hold; `advance` is told of every piece of bytes that is done. With
    `idle_core` a second thread looks for the strings: it reads the file once more, which only a free core makes cheap.
    """
    if size <= _INLINE:
        data = os.pread(descriptor, _INLINE + 1, 0)
        if len(data) == size:
            if advance is not None:
                advance(size)
            return Hashed(BlobDigest(blake3(data).hexdigest()), size, needles.find(data))
    if not idle_core:
        return _read(descriptor, needles, advance)
    with ThreadPoolExecutor(1, "hermetic-scan") as pool:
        scan = pool.submit(_scan, descriptor, needles)
        hashed = _read(descriptor, NO_NEEDLES, advance)
        return hashed._replace(hit=scan.result())


def _read(descriptor: int, needles: Needles, advance: Callable[[int], None] | None) -> Hashed:
    """Hash a file, and look through every piece while it is in the processor's cache."""
    hasher, size, hit = blake3(), 0, None
    for piece, window in _pieces(descriptor, needles.overlap):
        hasher.update(piece)
        if hit is None and needles.all:
            found = needles.find_at(window.address, window.length)
            hit = found and Hit(found.needle, size + len(piece) - window.length + found.offset)
        size += len(piece)
        if advance is not None:
            advance(len(piece))
    return Hashed(BlobDigest(hasher.hexdigest()), size, hit)


def _scan(descriptor: int, needles: Needles) -> Hit | None:
    size = 0
    for piece, window in _pieces(descriptor, needles.overlap):
        if (found := needles.find_at(window.address, window.length)) is not None:
            return Hit(found.needle, size + len(piece) - window.length + found.offset)
        size += len(piece)
    return None


class _Window(NamedTuple):
    """A piece in memory, with the end of the one before in front of it."""

    address: int
    length: int


def _pieces(descriptor: int, keep: int) -> Iterator[tuple[memoryview, _Window]]:
    """The pieces of a file, each good until the next; no string of up to `keep` + 1 bytes hides across a border."""
    buffer = bytearray(keep + READ)
    address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    view = memoryview(buffer)
    offset = 0
    while count := os.preadv(descriptor, [view[keep:]], offset):
        before = min(keep, offset)
        yield view[keep : keep + count], _Window(address + keep - before, before + count)
        offset += count
        tail = min(keep, offset)
        view[keep - tail : keep] = bytes(view[keep + count - tail : keep + count])
