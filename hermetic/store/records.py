"""Finding the records of what is realised, good or bad."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hermetic.digest import Key
from hermetic.store import realisation
from hermetic.store.layout import Layout
from hermetic.store.realisation import Realisation

__all__ = ["keys", "names_below", "newest_first", "preimage_bytes", "read_all", "read_record"]


def read_record(layout: Layout, key: Key) -> Realisation | None:
    """The record of `key`, whether or not its output is in place; None when there is none that can be read."""
    try:
        with open(layout.record(key), "rb") as file:
            record = realisation.decode(file.read())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return record if record.key == key else None


def read_all(layout: Layout) -> tuple[list[Realisation], list[Key]]:
    """Every record that can be read, and the keys of those that cannot. By key."""
    good, bad = [], []
    for key in keys(layout):
        record = read_record(layout, key)
        if record is not None:
            good.append(record)
        elif os.path.lexists(layout.record(key)):
            bad.append(key)
    return good, bad


def preimage_bytes(layout: Layout, key: Key) -> bytes:
    """The derivation of `key` as it was written; empty when it is missing."""
    try:
        with open(layout.preimage(key), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def keys(layout: Layout) -> Iterator[Key]:
    """Every key that has a record."""
    return _keys(layout.folder("realisations"))


def newest_first(layout: Layout) -> list[Key]:
    """Every key that has a preimage, by when it was written."""
    return sorted(_keys(layout.folder("derivations")), key=lambda key: -_written(layout.preimage(key)))


def _written(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:  # collected meanwhile
        return 0


def _keys(folder: str) -> Iterator[Key]:
    for name in names_below(folder):
        try:
            yield Key(name)
        except ValueError:
            continue


def names_below(folder: str) -> Iterator[str]:
    """Names two levels down."""
    for prefix in sorted(os.listdir(folder)):
        try:
            yield from sorted(os.listdir(f"{folder}/{prefix}"))
        except NotADirectoryError:
            continue
