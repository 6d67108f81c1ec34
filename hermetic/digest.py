"""BLAKE3 of bytes, files and trees, with one type for each thing that a digest can name.

A file's digest is plain BLAKE3 of its bytes, equal to ``b3sum``. Everything else is separated with ``derive_key``
contexts, so that no two kinds of object can share a digest. Two digests of different types never compare equal, and
mypy refuses to pass one for another.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

from blake3 import blake3

__all__ = [
    "BlobDigest",
    "Digest",
    "EntryDigest",
    "Key",
    "ResolvedKey",
    "TreeDigest",
    "TreeEntry",
    "derive",
    "hash_bytes",
    "hash_descriptor",
    "tree_digest",
]

_TREE_CONTEXT = "hermetic tree v1"
_HEX = frozenset("0123456789abcdef")
_READ = 1 << 20  # 1 MiB reads hash faster than mmap on files in the page cache


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """256 bits as 64 lower-case hexadecimal digits."""

    hex: str

    def __post_init__(self) -> None:
        if len(self.hex) != 64 or not _HEX.issuperset(self.hex):
            raise ValueError(f"not a digest: {self.hex!r}")

    def __str__(self) -> str:
        return self.hex

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.hex)


class BlobDigest(Digest):
    """A file's bytes."""

    __slots__ = ()


class TreeDigest(Digest):
    """A folder: names, types, executable bits, contents."""

    __slots__ = ()


class EntryDigest(Digest):
    """A lock file's entry for one fixed output."""

    __slots__ = ()


class Key(Digest):
    """A derivation: what will be built, known before anything is."""

    __slots__ = ()

    @property
    def base32(self) -> str:
        """The first 160 bits as 32 characters of RFC 4648 base-32, lower case: the key as a store path shows it."""
        return base64.b32encode(self.raw[:20]).decode("ascii").lower()


class ResolvedKey(Digest):
    """A derivation without its name, with every input replaced by the tree digest it produced."""

    __slots__ = ()


D = TypeVar("D", bound=Digest)


def derive(kind: type[D], context: str, data: bytes) -> D:
    """The digest of `data` in a context of its own (BLAKE3 ``derive_key``)."""
    return kind(blake3(data, derive_key_context=context).hexdigest())


def hash_bytes(data: bytes) -> BlobDigest:
    """BLAKE3 of `data`, as ``b3sum`` prints it."""
    return BlobDigest(blake3(data).hexdigest())


def hash_descriptor(descriptor: int) -> tuple[BlobDigest, int]:
    """BLAKE3 and length in bytes of an open file, read from its current offset to the end."""
    hasher = blake3()
    buffer = bytearray(_READ)
    view = memoryview(buffer)
    size = 0
    while count := os.readv(descriptor, [buffer]):
        hasher.update(view[:count])
        size += count
    return BlobDigest(hasher.hexdigest()), size


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name in a folder.

    `size` is the byte length of a file, 0 otherwise; `digest` names a file's bytes or a folder's tree; `target` is
    where a symlink points. The fields that do not apply to a type are at their defaults.
    """

    name: bytes
    type: Literal["file", "dir", "symlink"]
    executable: bool = False
    size: int = 0
    digest: BlobDigest | TreeDigest | None = None
    target: bytes = b""

    def encode(self) -> bytes:
        payload = self.target if self.type == "symlink" else self._digest_bytes()
        kind = {"file": b"f", "dir": b"d", "symlink": b"l"}[self.type]
        flag = b"x" if self.executable else b"-"
        sizes = struct.pack("<QQQ", len(self.name), self.size, len(payload))
        return kind + flag + sizes + self.name + payload

    def _digest_bytes(self) -> bytes:
        expected = BlobDigest if self.type == "file" else TreeDigest
        if not isinstance(self.digest, expected):
            raise TypeError(f"a {self.type} entry needs a {expected.__name__}, not {self.digest!r}")
        return self.digest.raw


def tree_digest(entries: Iterable[TreeEntry]) -> TreeDigest:
    """The Merkle digest of one folder from its entries, in any order. Raises `ValueError` on a name given twice."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    for before, after in pairwise(ordered):
        if before.name == after.name:
            raise ValueError(f"two entries named {after.name!r}")
    return derive(TreeDigest, _TREE_CONTEXT, b"".join(entry.encode() for entry in ordered))
