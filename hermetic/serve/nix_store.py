"""What Nix knows of a path in its store: it hashed it when it was made, and can say whether it is still so."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Final

from hermetic.errors import Domain, HermeticError

__all__ = ["vouches"]

_PATH: Final = re.compile(r"/nix/store/[0-9a-z]{32}-[^/]+")


def vouches(folder: str) -> bool:
    """Whether `folder` is a path of Nix's store that has the bytes that Nix registered. All of it is read.

    Raises `HermeticError` (trust/engine-changed) if it has others. A path that Nix does not know, and a machine where
    no ``nix-store`` can be asked, are False.
    """
    path = os.path.realpath(folder)
    if not _PATH.fullmatch(path):
        return False
    try:
        done = subprocess.run(["nix-store", "--verify-path", path], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    if "was modified" in done.stderr:
        message = f"the engine in {path} is not what Nix built: {done.stderr.strip()}"
        raise HermeticError(Domain.TRUST, "engine-changed", message, hint=f"nix-store --repair-path {path}")
    return done.returncode == 0
