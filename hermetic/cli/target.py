"""What a verb about something realised is pointed at: a recipe's stage, a store path, or a key's first characters."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from hermetic.canonical import Value
from hermetic.cli.common import opened
from hermetic.digest import Key
from hermetic.realise.evaluated import split_reference
from hermetic.recipe.loader import SUFFIXES
from hermetic.store import Store

__all__ = ["Target", "find"]


@dataclass(frozen=True)
class Target:
    """A key, and where preimages come from: the recipe itself, or what the store recorded."""

    key: Key
    preimage: Callable[[Key], dict[str, Value] | None]


def find(target: str, sets: tuple[str, ...], store: Store) -> Target:
    """What `target` means. Raises `HermeticError` with domain usage or recipe."""
    file, _ = split_reference(target)
    inside = os.path.realpath(file).startswith(os.path.realpath(store.root / "store") + os.sep)
    if not file.endswith(SUFFIXES) or inside:
        return Target(store.find(target).key, store.preimage)
    evaluated = opened(target, sets, str(store.root)).evaluated
    derivations = evaluated.graph.derivations

    def preimage(key: Key) -> dict[str, Value] | None:
        return derivations[key].preimage if key in derivations else store.preimage(key)

    return Target(evaluated.wanted[0].key, preimage)
