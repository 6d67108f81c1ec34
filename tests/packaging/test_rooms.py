"""Who may import whom, as far as import-linter's contracts can't say it themselves."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest


def rooms(repository: Path) -> set[str]:
    package = repository / "hermetic"
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in package.glob("*/__init__.py")}


def contract(repository: Path, kind: str, what: str) -> list[str]:
    """The names in one list of import-linter's contract of a kind, without the package's."""
    tools = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["tool"]
    (found,) = [item for item in tools["importlinter"]["contracts"] if item["type"] == kind]
    return [name.strip("()").removeprefix("hermetic.") for name in found[what]]


def test_every_room_is_in_the_layers(repository: Path) -> None:
    assert rooms(repository) <= set(contract(repository, "layers", "layers"))


def test_every_room_before_the_stage_library_but_recipe_and_errors_is_forbidden_to_it(repository: Path) -> None:
    """The layers forbid it the rooms that come after."""
    layers = contract(repository, "layers", "layers")
    before = rooms(repository) & set(layers[layers.index("llm") + 1 :])
    assert set(contract(repository, "forbidden", "forbidden_modules")) == before - {"recipe", "errors"}


def programs() -> list[Path]:
    return sorted((Path(__file__).parents[2] / "hermetic" / "llm" / "programs").glob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level names a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("program", programs(), ids=lambda path: path.name)
def test_a_program_imports_nothing_of_hermetic(program: Path) -> None:
    """It runs where hermetic is not installed, and must not change when hermetic does."""
    assert not imported(program) & {"hermetic", "."}


@pytest.mark.parametrize("program", programs(), ids=lambda path: path.name)
def test_a_program_imports_siblings_by_a_name_of_their_own(program: Path) -> None:
    """`-P` leaves the program's folder first on the path, where a sibling named like a module would hide it."""
    assert program.stem not in sys.stdlib_module_names


def test_no_two_test_modules_share_a_name(repository: Path) -> None:
    """They are imported by their bare names, so the second of two would be taken for the first."""
    names = [
        path.name for path in (repository / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py")
    ]
    doubled = sorted({name for name in names if names.count(name) > 1 and name.startswith("test_")})
    assert doubled == []
