"""``images/``: unpacked container images. They are no store paths, but are kept, counted and verified like them.

::

    images/<64 hexadecimal digits of the manifest's sha256>/
        rootfs/      the root file system, with its own modes
        config.json  the image's configuration
        files        one entry a file: what `verify` compares
        complete     written last; without it nobody uses the rest
    images/….partial/  what an interrupted pull has brought so far
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from hermetic.digest import Key, TreeDigest, derive
from hermetic.store import trash
from hermetic.store.hashing import NO_NEEDLES, hash_and_scan
from hermetic.store.pending import sync_file_system
from hermetic.store.realisation import Realisation

__all__ = ["PARTIAL", "Unpacked", "broken", "drop_marker", "every", "folder_of", "key_of", "problems", "read", "seal"]

PARTIAL: Final = ".partial"
_CONTEXT: Final = "hermetic environment v1"
_LAYOUT: Final = 1  # of what lies below images/; another number is unpacked anew, and changes no stage's key
_COMPLETE: Final = "complete"
_FILES: Final = "files"

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Unpacked:
    """A whole image in a store. `name` is what a recipe called it first."""

    digest: str
    folder: str
    variables: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    recorded_size: int | None = None

    @property
    def size(self) -> int:
        """The bytes of its files. Those that the first version of hermetic unpacked are counted each time."""
        return _size(self.root) if self.recorded_size is None else self.recorded_size

    @property
    def key(self) -> Key:
        return key_of(self.digest)

    @property
    def root(self) -> str:
        return f"{self.folder}/rootfs"

    @property
    def marker(self) -> str:
        return f"{self.folder}/{_COMPLETE}"

    def as_record(self) -> Realisation:
        """What the collector weighs it by; no such record is ever written."""
        return Realisation(self.key, self.name or self.digest, TreeDigest(_hex(self.digest)), self.size)


def broken(root: str) -> Iterator[tuple[str, str]]:
    """Names below ``images/`` that are not whole images, each with the digest that it is a beginning of."""
    for name in sorted(os.listdir(f"{root}/images")):
        digest = f"sha256:{name.partition('.')[0]}"
        if "." in name or read(root, digest) is None:
            yield name, digest


def key_of(digest: str) -> Key:
    """What leases and locks name the image with the manifest `digest` ("sha256:…") by."""
    from hermetic import canonical  # noqa: PLC0415  # reading a store does not need the encoder

    preimage: canonical.Value = {"environment": "image", "layout": _LAYOUT, "manifest": digest}
    return derive(Key, _CONTEXT, canonical.encode(preimage))


def folder_of(root: str, digest: str) -> str:
    """Where the image lies in the store at `root`, once it does."""
    return f"{root}/images/{_hex(digest)}"


def read(root: str, digest: str) -> Unpacked | None:
    """The image, if it is there and whole."""
    folder = folder_of(root, digest)
    try:
        with open(f"{folder}/{_COMPLETE}", "rb") as stream:
            recorded = json.load(stream)
        if recorded["layout"] != _LAYOUT:
            return None
        return Unpacked(digest, folder, recorded["variables"], recorded.get("name", ""), recorded.get("size"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def every(root: str) -> list[Unpacked]:
    """All that are whole, by digest."""
    names = sorted(name for name in os.listdir(f"{root}/images") if "." not in name)
    return [found for name in names if (found := read(root, f"sha256:{name}")) is not None]


def seal(folder: str, digest: str, name: str, variables: Mapping[str, str]) -> None:
    """Say that the image in `folder` is whole: list its files, wait for the disk once, write the marker."""
    size = 0

    def add(count: int) -> None:
        nonlocal size
        size += count

    with open(f"{folder}/{_FILES}", "wb") as stream:
        stream.writelines(_listing(f"{folder}/rootfs", add))
    sync_file_system(folder)
    record = {"digest": digest, "layout": _LAYOUT, "name": name, "size": size, "variables": dict(variables)}
    with open(f"{folder}/.{_COMPLETE}", "w", encoding="utf-8") as stream_:
        json.dump(record, stream_, sort_keys=True)
        stream_.flush()
        os.fsync(stream_.fileno())
    os.rename(f"{folder}/.{_COMPLETE}", f"{folder}/{_COMPLETE}")


def drop_marker(image: Unpacked) -> None:
    """From here on nobody is shown it."""
    trash.unlink(image.marker)


def problems(image: Unpacked, advance: Advance | None = None) -> Iterator[tuple[str, str]]:
    """Every path below the image's folder that is not as it was unpacked, and what is wrong with it."""
    try:
        with open(f"{image.folder}/{_FILES}", "rb") as stream:
            wanted = dict(_parse(stream.read()))
    except FileNotFoundError:
        return  # unpacked by the first version of hermetic: there is nothing to compare it with
    found = dict(_parse(b"".join(_listing(image.root, advance))))
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            yield f"rootfs/{os.fsdecode(path)}", _difference(wanted.get(path), found.get(path))


def _difference(wanted: bytes | None, found: bytes | None) -> str:
    if found is None:
        return "is missing"
    if wanted is None:
        return "is not of the image"
    names = ("type", "mode", "time", "contents")
    return (
        f"has another {' and '.join(n for n, a, b in zip(names, wanted.split(), found.split(), strict=True) if a != b)}"
    )


def _parse(listing: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in filter(None, listing.split(b"\0")):
        facts, _, path = line.partition(b" /")
        yield path, facts


def _listing(root: str, advance: Advance | None) -> Iterator[bytes]:
    """``TYPE MODE MTIME DIGEST /PATH`` and a zero byte for everything below `root`; links count once for `advance`."""
    seen: set[int] = set()
    waiting = [os.fsencode(root)]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            names = sorted(entries, key=lambda entry: entry.name, reverse=True)
        for entry in names:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                waiting.append(entry.path)
            facts = f"{stat.S_IFMT(status.st_mode):o} {stat.S_IMODE(status.st_mode):o} {status.st_mtime_ns}"
            if stat.S_ISREG(status.st_mode) and status.st_ino not in seen:
                seen.add(status.st_ino)
                if advance is not None:
                    advance(status.st_size)
            path = entry.path[len(os.fsencode(root)) :]
            yield b"%s %s %s\0" % (facts.encode(), _content(entry.path, status), path)


def _content(path: bytes, status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        return b"-" + os.readlink(path).hex().encode()
    if not stat.S_ISREG(status.st_mode):
        return b"-"
    if not status.st_mode & stat.S_IRUSR:  # its owner, whom stages run as, may not read it either
        return b"unreadable"
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return hash_and_scan(descriptor, status.st_size, NO_NEEDLES).digest.hex.encode()
    finally:
        os.close(descriptor)


def _size(root: str) -> int:
    files = {}
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.lstat(f"{folder}/{name}")
            files[status.st_ino] = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return sum(files.values())


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
