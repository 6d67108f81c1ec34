"""What a verb about something realised is pointed at: a recipe's stage, a store path, or a key's first characters."""

from __future__ import annotations

import os

from hermetic.cli.common import opened
from hermetic.digest import Key
from hermetic.realise.evaluated import split_reference
from hermetic.store import Store

__all__ = ["key_of"]


def key_of(target: str, sets: tuple[str, ...], store: Store) -> Key:
    """The key that `target` means. Raises `HermeticError` with domain usage or recipe."""
    file, _ = split_reference(target)
    if file.endswith(".py") and not os.path.realpath(file).startswith(os.path.realpath(store.root / "store")):
        session = opened(target, sets, str(store.root))
        return session.evaluated.wanted[0].key
    return store.find(target).key
