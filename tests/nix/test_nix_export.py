"""What Nix reads of a recipe: closed, the same everywhere, and refused where Nix could not build it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermetic.errors import HermeticError
from hermetic.nix.export import document, export_path, text
from hermetic.recipe import load
from hermetic.recipe.pins import locking

REPOSITORY = Path(__file__).parents[2]
RECIPES = sorted(
    os.path.relpath(str(path).removesuffix(".nix.json"), REPOSITORY) + ".py"
    for folder in ("nix", "recipes")
    for path in (REPOSITORY / folder).glob("*.nix.json")
)


@pytest.mark.parametrize("name", RECIPES)
def test_the_exported_graph_is_what_the_recipe_says(name: str, repository: Path) -> None:
    """Drift is a failure that says what to run; no index is asked, unless a lock of a Python environment changed."""
    path = repository / name
    kept = Path(export_path(str(path))).read_text("utf-8")
    same = text(document(str(path), {}, before=json.loads(kept))) == kept
    assert same, f"run: hermetic nix export {name}"


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_of_this_machine_is_in_it(name: str, repository: Path) -> None:
    kept = Path(export_path(str(repository / name))).read_text("utf-8")
    for word in (str(repository), os.path.realpath(sys.executable), "interpreter", "/usr/", "/home"):
        assert word not in kept


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_of_the_recipe_is_there_with_its_parameters(name: str, repository: Path) -> None:
    path = str(repository / name)
    stages = json.loads(Path(export_path(path)).read_text("utf-8"))["stages"]
    with locking():
        recipe = load(path)
    assert set(stages) == set(recipe.names.values())
    for stage, called in recipe.names.items():
        assert stages[called].get("parameters", {}) == json.loads(json.dumps(stage.parameters_in_full()))
        assert set(stages[called].get("inputs", {})) == set(stage.inputs_by_role())


def test_the_builders_see_exactly_the_modules_that_they_import(repository: Path) -> None:
    """An edit of any other module builds nothing anew. `nix/builders.json` is written from this."""
    listed = json.loads((repository / "nix" / "builders.json").read_text())
    for builder, files in listed.items():
        code = (
            f"import sys, hermetic.nix.{builder}\nfor m in list(sys.modules.values()): print(getattr(m, '__file__', 0))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
        inside = f"{repository}/"
        found = sorted(
            line.removeprefix(inside) for line in done.stdout.splitlines() if line.startswith(f"{inside}hermetic/")
        )
        assert files == found, builder


SCRIPT = """\
from hermetic import {imports}
step = Script("step.py", environment={environment}{more})
"""


def exported(folder: Path, environment: str, imports: str = "", more: str = "", step: str = "") -> dict[str, object]:
    (folder / "lock.txt").write_text("")
    (folder / "step.py").write_text(step)
    names = ", ".join(["Script", *imports.split()])
    (folder / "recipe.py").write_text(SCRIPT.format(imports=names, environment=environment, more=more))
    return document(str(folder / "recipe.py"), {})


def test_programs_and_sources_stand_by_where_they_lie_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    more = ', inputs={"data": Source("data")}, timeout=7'
    found = exported(tmp_path, 'PythonEnv("lock.txt", python="3.12")', "PythonEnv Source", more)
    stage = found["stages"]["step"]
    assert stage["program"] == [{"name": "step.py", "recipe": "step.py"}]
    assert stage["inputs"] == {"data": {"source": "data"}}
    assert stage["limits"] == {"timeout": 7}
    assert list(found["sources"]) == ["data"]
    assert found["environments"]["lock"]["python"] == "3.12"
    assert str(tmp_path) not in text(found)


@pytest.mark.parametrize(
    ("environment", "imports", "more", "reason"),
    [
        ('Host(paths=("/bin/sh",))', "Host", "", "nix-host"),
        ('PythonEnv("lock.txt")', "PythonEnv Gpu", ", gpu=Gpu()", "nix-gpu"),
        ('PythonEnv("lock.txt")', "PythonEnv Source", ', inputs={"x": Source("/etc/passwd")}', "nix-outside"),
        (
            'PythonEnv("lock.txt")',
            "PythonEnv Harvest Validator",
            ', harvest=Harvest(artifacts=("a",), complete=Validator("step.py"))',
            "nix-validator",
        ),
    ],
)
def test_what_nix_cannot_build_is_refused_with_its_line(
    environment: str, imports: str, more: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(HermeticError) as caught:
        exported(tmp_path, environment, imports, more)
    assert (caught.value.domain.value, caught.value.reason) == ("recipe", reason)
    assert "recipe.py:2" in caught.value.message


def test_what_nobody_could_be_asked_for_says_so_once_it_is_built(tmp_path: Path) -> None:
    lock = {"format": "hermetic lock 1", "fixed": {"hf://a/model@main": {"unresolved": "the Hub does not answer"}}}
    (tmp_path / "recipe.lock.json").write_text(json.dumps(lock))
    more = ', inputs={"model": hub_snapshot("a/model"), "other": hub_snapshot("a/model")}'
    found = exported(tmp_path, 'PythonEnv("lock.txt")', "PythonEnv hub_snapshot", more)
    assert found["stages"]["step"]["inputs"] == {role: {"fixed": "hf://a/model@main"} for role in ("model", "other")}
    said = found["fixed"]["hf://a/model@main"]["unresolved"]
    for words in ("hf://a/model@main could not be locked: the Hub does not answer", "hermetic lock recipe.py"):
        assert words in said


def test_what_was_never_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        exported(tmp_path, 'Image("registry.example.com/tool:1")', "Image")
    assert (caught.value.domain.value, caught.value.reason) == ("recipe", "not-locked")


def test_check_fails_on_drift_and_writes_nothing(tmp_path: Path, cli) -> None:
    (tmp_path / "lock.txt").write_text("")
    (tmp_path / "step.py").write_text("")
    recipe = SCRIPT.format(imports="Script, PythonEnv", environment='PythonEnv("lock.txt")', more="")
    (tmp_path / "recipe.py").write_text(recipe)
    assert cli("nix", "export", "recipe.py", "--check").exit_code == 3
    assert not (tmp_path / "recipe.nix.json").exists()
    assert cli("nix", "export", "recipe.py").stdout == "recipe.nix.json\n"
    assert cli("nix", "export", "recipe.py", "--check").exit_code == 0
    (tmp_path / "recipe.py").write_text(recipe.replace(")\n", ", timeout=3)\n"))
    result = cli("nix", "export", "recipe.py", "--check")
    assert (result.exit_code, "recipe/nix-drift" in result.stderr) == (3, True)
