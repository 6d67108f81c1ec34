"""Environments that stages of several kinds share."""

from __future__ import annotations

import os

from hermetic.recipe import PythonEnv

__all__ = ["files_environment"]

_LOCKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "locks")


def files_environment(python: str = "") -> PythonEnv:
    """Python with BLAKE3, for stages that only read and describe files."""
    return PythonEnv(os.path.join(_LOCKS, "files.txt"), python=python)
