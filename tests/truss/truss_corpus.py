"""The corpus: configs whose comments say what they are about and what hermetic says of them.

::

    # What it is about.
    # refuses: CODE FIELD
    # warns: CODE FIELD
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
RECORD = HERE / "verdicts.json"


@dataclass(frozen=True)
class Case:
    """One config, and what its comments say: pairs of code and field."""

    path: Path
    refuses: frozenset[tuple[str, str]]
    warns: frozenset[tuple[str, str]]


def _stated(path: Path, word: str) -> frozenset[tuple[str, str]]:
    lines = path.read_text("utf-8").splitlines()
    parts = [line.removeprefix(f"# {word}: ").partition(" ") for line in lines if line.startswith(f"# {word}: ")]
    return frozenset((code, field) for code, _, field in parts)


def cases() -> list[Case]:
    return [Case(path, _stated(path, "refuses"), _stated(path, "warns")) for path in sorted(CORPUS.glob("*.yaml"))]


def record() -> dict[str, dict[str, object]]:
    """What the real package said, by file name."""
    found: dict[str, dict[str, object]] = json.loads(RECORD.read_text("utf-8"))["verdicts"]
    return found
