"""What dead runs left: workspaces nobody uses, leases nobody holds, temporary files nobody will rename."""

from __future__ import annotations

import os
import time

from hermetic.store.layout import Layout
from hermetic.store.locks import is_held
from hermetic.store.removal import remove_tree

__all__ = ["sweep"]

_STALE = 3600  # seconds; a temporary record lives for milliseconds


def sweep(layout: Layout) -> None:
    """Remove them. Kept workspaces stay."""
    alive: dict[str, bool] = {}
    names = set(os.listdir(layout.folder("tmp")))
    for name in names:
        path = f"{layout.root}/tmp/{name}"
        run = name.partition("-")[0]
        if run == "f":
            _remove_stale(path)
        elif not name.endswith(".kept") and f"{name}.kept" not in names:
            if run not in alive:
                alive[run] = is_held(f"{layout.root}/leases/{run}")
            if not alive[run]:
                remove_tree(path)
    for run in os.listdir(layout.folder("leases")):
        path = f"{layout.root}/leases/{run}"
        if not is_held(path):
            _unlink(path)


def _remove_stale(path: str) -> None:
    try:
        if time.time() - os.lstat(path).st_mtime > _STALE:
            os.unlink(path)
    except FileNotFoundError:
        return


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
