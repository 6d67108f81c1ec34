"""Tokens: where they are looked for, each time one is needed, and nowhere kept."""

from __future__ import annotations

import os
import re
from typing import Final

__all__ = ["find_secret"]

#: Where Truss finds the secrets of a build; ``HERMETIC_SECRETS`` names another folder.
_FOLDER: Final = "/secrets"


def find_secret(name: str) -> str:
    """The secret that a recipe calls `name`, or "": ``TRUSS_SECRET_<name>``, else the file ``/secrets/<name>``.

    The two places, and their order, are those of Truss (``runtime_secret_name``).
    """
    if re.fullmatch(r"[A-Za-z0-9_.-]+", name) is None or name.startswith("."):
        return ""
    if given := os.environ.get(f"TRUSS_SECRET_{name}", "").strip():
        return given
    try:
        with open(f"{os.environ.get('HERMETIC_SECRETS', _FOLDER)}/{name}", encoding="utf-8") as stream:
            return stream.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
