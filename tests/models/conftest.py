"""The programs of models, by hand and in the sandbox, on the committed tiny checkpoint and on random ones."""

from __future__ import annotations

import sys
from pathlib import Path

LLM_TESTS = Path(__file__).resolve().parents[1] / "llm"
sys.path.append(str(LLM_TESTS))  # by_hand and checkpoints

import by_hand  # noqa: E402, F401  # makes the programs importable
from models_kit import by_program, models_python  # noqa: E402

__all__ = ["by_program", "models_python"]
