"""What dead runs left: workspaces nobody uses, leases nobody holds, temporary files nobody will rename."""

from __future__ import annotations

import os
from contextlib import suppress

from hermetic.store.layout import Layout
from hermetic.store.locks import is_held, remove_unheld
from hermetic.store.removal import remove_tree

__all__ = ["UNFINISHED", "discard", "kept", "sweep"]

#: What names of downloads on their way begin with, before a dash and the key.
UNFINISHED = "fetch"


def sweep(layout: Layout) -> None:
    """Remove them. Kept workspaces stay."""
    alive: dict[str, bool] = {}
    names = set(os.listdir(layout.folder("tmp")))
    for name in names:
        path = layout.temporary(name)
        run = name.partition("-")[0]
        if run == "f":
            _remove_unheld(path)
        elif run == UNFINISHED:
            continue  # what has arrived of a download: the next try goes on from there
        elif not name.endswith(".kept") and f"{name}.kept" not in names:
            if run not in alive:
                alive[run] = is_held(f"{layout.root}/leases/{run}")
            if not alive[run]:
                _remove(path)
    for run in os.listdir(layout.folder("leases")):
        _remove_unheld(f"{layout.root}/leases/{run}")


def kept(layout: Layout) -> list[str]:
    """Workspaces that were closed with ``keep``."""
    names = os.listdir(layout.folder("tmp"))
    return [layout.temporary(name.removesuffix(".kept")) for name in sorted(names) if name.endswith(".kept")]


def discard(workspace: str) -> None:
    """Remove a kept workspace."""
    remove_tree(workspace)
    remove_tree(f"{workspace}.kept")


def _remove_unheld(path: str) -> None:
    with suppress(PermissionError, FileNotFoundError):
        remove_unheld(path)


def _remove(path: str) -> None:
    # Another user's leftovers are theirs to remove; whether the store can be written shows with the first real step.
    with suppress(PermissionError):
        remove_tree(path)
