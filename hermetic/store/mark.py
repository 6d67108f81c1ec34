"""What the collector must leave alone, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import profiles, roots
from hermetic.store.layout import Layout
from hermetic.store.locks import is_held
from hermetic.store.realisation import Realisation

__all__ = ["closure", "held", "leased"]


def held(layout: Layout) -> dict[str, str]:
    """What roots, profiles and leases name, as the key's part of a store path's name, each with its first reason.

    Call it with the collector alone. Raises `HermeticError` (store/unreadable-root, store/unreadable-lease).
    """
    found: dict[str, str] = {}
    running = ((key.base32, f"leased by run {run}") for key, run in leased(layout))
    rooted = ((name, f"rooted by {link}") for name, link in roots.kept(layout))
    profiled = ((key.base32, f"generation {number} of profile {name}") for key, name, number in profiles.kept(layout))
    for name, why in chain(rooted, profiled, running):
        found.setdefault(name, why)
    return found


def leased(layout: Layout) -> Iterator[tuple[Key, str]]:
    """Every key that a living run has leased, and the run."""
    for run in sorted(os.listdir(layout.folder("leases"))):
        path = f"{layout.root}/leases/{run}"
        try:
            keys = _read(path) if is_held(path) else []
        except (PermissionError, ValueError) as error:
            raise HermeticError(
                Domain.STORE,
                "unreadable-lease",
                f"the lease {path} cannot be read, so nobody knows what its run is using; nothing was collected",
                hint="collect as the store's owner or root, or when that run has ended",
            ) from error
        for key in keys:
            yield key, run


def _read(path: str) -> list[Key]:
    try:
        with open(path, encoding="ascii") as file:
            return [Key(line) for line in file.read().split()]
    except FileNotFoundError:  # it ended just now
        return []


def closure(keys: Iterable[str], records: Mapping[str, Realisation]) -> dict[str, str]:
    """What `keys` need by reference, beyond themselves, each with the key that needs it; all in hexadecimal."""
    found: dict[str, str] = {}
    start = set(keys)
    waiting = list(start)
    while waiting:
        here = waiting.pop()
        for reference in records[here].references:
            key = reference.hex
            if key in records and key not in start and key not in found:
                found[key] = here
                waiting.append(key)
    return found
