import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path):
    """Write files beside a recipe; returns the recipe's path."""

    def write(recipe: str, files: dict[str, str] | None = None, **beside: str) -> str:
        """`beside` are files whose name has ``_dot_`` for the dot."""
        named = {name.replace("_dot_", "."): text for name, text in beside.items()}
        for name, text in {**named, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        path = tmp_path / "recipe.py"
        path.write_text(textwrap.dedent(recipe))
        return str(path)

    return write
