"""Where a figure is measured: a folder, a home and a store of its own, and the command under test."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.timing import Command

__all__ = ["RECIPE", "Place"]

RECIPE = "recipes/tiny_qwen3.py"


@dataclass(frozen=True)
class Place:
    """`folder` is empty at first; nothing outside it is written."""

    repository: Path
    folder: Path
    runs: int

    def below(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def env(self, store: str = "store") -> dict[str, str]:
        """Variables that keep every program's own state in the folder."""
        home = self.below("home")
        moved = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")}
        return {**moved, "HOME": str(home), "HERMETIC_STORE": str(self.folder / store), "PYTHONPATH": ""}

    def hermetic(self, *arguments: str, store: str = "store", env: Mapping[str, str] | None = None) -> Command:
        """The installed command, as a user starts it."""
        program = os.path.join(os.path.dirname(sys.executable), "hermetic")
        return Command([program, *arguments], cwd=self.below("cwd"), env=self.env(store) | dict(env or {}))

    @property
    def recipe(self) -> str:
        return str(self.repository / RECIPE)
