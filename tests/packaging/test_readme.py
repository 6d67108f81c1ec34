"""README.md says what is so: its recipe is the recipe, its commands exist and run, its error reasons can happen.

Its ```sh blocks are a script: `test_every_command_runs` runs them in order, in a fresh clone with a store of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hermetic.cli.app import VERBS


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows[2:]]


def test_the_recipe_in_it_is_the_recipe(readme: str, repository: Path) -> None:
    assert (repository / "recipes" / "tiny_qwen3.py").read_text("utf-8") in blocks(readme, "python")


def test_the_overview_names_every_command_and_no_other(readme: str) -> None:
    named = [re.findall(r"`hermetic ([\w-]+)", row[0]) for row in table(readme, "Commands")]
    assert sorted(verb for verbs in named for verb in verbs) == sorted(VERBS)


# How an error is raised besides `HermeticError(Domain.X, "reason"`: helpers whose domain is fixed.
HELPERS = {"build": "refuse", "environment": "no_sandbox"}


def test_every_reason_in_troubleshooting_can_happen(readme: str, repository: Path) -> None:
    source = "".join(path.read_text("utf-8") for path in (repository / "hermetic").rglob("*.py"))
    named = re.findall(r"`(\w+)/([\w-]+)`", "".join(row[0] for row in table(readme, "When something goes wrong")))
    assert named
    for domain, reason in named:
        ways = rf'Domain\.{domain.upper()},\s*(reason|"{reason}")|{HELPERS.get(domain, "-")}\(\s*"{reason}"'
        assert f'"{reason}"' in source, f"{domain}/{reason} is in README.md and nowhere else"
        assert re.search(ways, source), f"no {reason} of domain {domain}"


def test_every_path_in_it_exists(readme: str, repository: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not (repository / link).exists()] == []


def test_every_decision_record_is_in_the_index(repository: Path) -> None:
    folder = repository / "docs" / "adr"
    index = (folder / "README.md").read_text("utf-8")
    assert [path.name for path in folder.glob("[0-9]*.md") if f"({path.name})" not in index] == []


def test_the_two_commands_come_first(readme: str) -> None:
    first = blocks(readme, "sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["python3 bootstrap.py", "python3 bootstrap.py test"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_runs(readme: str, clone: Path, store_root: Path) -> None:
    """As one script that stops at the first failure. Tests and checks inside it are not run: `.ci/run` does that."""
    script = "\n".join(blocks(readme, "sh")).replace("make check", "make --dry-run check")
    python = os.path.dirname(os.path.realpath(sys.executable))
    # What the shell finds as python3 is the interpreter that runs this, without its site-packages.
    search = f"{python}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=clone,
        env=os.environ | {"HERMETIC_STORE": str(store_root), "PYTEST_ADDOPTS": "--collect-only -q", "PATH": search},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    path = done.stdout.splitlines()[0]
    assert os.path.isdir(path), f"the first command printed {path!r}, which is no store path"
