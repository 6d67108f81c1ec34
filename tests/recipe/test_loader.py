"""Recipes: what is collected, what is refused, and that each refusal names its line."""

import os
import re

import pytest

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.recipe import Memo, load

HEAD = """\
from hermetic import Host, Script, Source, Stage, param
env = Host(paths=("/bin/sh",))
"""


def errors_of(path: str, overrides=None) -> list[HermeticError]:
    with pytest.raises(HermeticError) as caught:
        load(path, overrides)
    error = caught.value
    return error.errors if isinstance(error, HermeticErrors) else [error]


def reasons(path: str, overrides=None) -> list[str]:
    return [error.reason for error in errors_of(path, overrides)]


def test_stages_are_module_level_names_and_default_is_the_target(write) -> None:
    recipe = load(
        write(
            HEAD
            + 'a = Script("a.sh", environment=env)\n'
            + 'b = Script("a.sh", environment=env, inputs={"a": a})\ndefault = b\n',
            a_dot_sh="",
        )
    )
    assert list(recipe.stages) == ["a", "b"]
    assert recipe.select(None) is recipe.stages["b"]
    assert recipe.select("a") is recipe.stages["a"]
    assert recipe.names[recipe.stages["b"]] == "b"


def test_an_unknown_stage_is_named_with_the_nearest(write) -> None:
    recipe = load(write(HEAD + 'engine = Script("a.sh", environment=env)\n', a_dot_sh=""))
    with pytest.raises(HermeticError) as caught:
        recipe.select("engin")
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "unknown-stage")
    assert "engine?" in (caught.value.hint or "")


def test_all_errors_are_shown_together_each_with_file_and_line(write) -> None:
    path = write(
        HEAD
        + 'a = Script("missing.sh", environment=env)\n'
        + 'b = Script("a.sh", environment=env, parameters={"ratio": 0.5})\n'
        + 'c = Script("a.sh", environment=env, cors=2)\n'
        + 'd = Script("a.sh", environment=env, name="a/b")\n'
        + 'e = Script("a.sh", environment="none")\n',
        a_dot_sh="",
    )
    found = errors_of(path)
    assert [(error.reason, error.data["line"]) for error in found] == [
        ("source-missing", 3),
        ("float", 4),
        ("stage-invalid", 5),
        ("stage-invalid", 7),
    ]
    assert all(re.search(r"recipe\.py:\d", error.message) for error in found)


def test_a_name_with_a_slash_is_refused(write) -> None:
    path = write(HEAD + 'd = Script("a.sh", environment=env, name="a/b")\n', a_dot_sh="")
    assert reasons(path) == ["bad-name"]


def test_a_float_comes_with_the_advice_to_write_a_string(write) -> None:
    path = write(HEAD + 'a = Script("a.sh", environment=env, parameters={"x": [1, {"y": 1.5}]})\n', a_dot_sh="")
    (error,) = errors_of(path)
    assert error.reason == "float"
    assert "x.1.y" in error.message
    assert "string" in error.message


def test_a_syntax_error_has_its_line(write) -> None:
    (error,) = errors_of(write("x = (\n"))
    assert (error.reason, "recipe.py:1" in error.message) == ("syntax", True)


def test_an_exception_has_its_line(write) -> None:
    (error,) = errors_of(write("x = 1\ny = x / 0\n"))
    assert error.reason == "raised"
    assert "recipe.py:2" in error.message
    assert "ZeroDivisionError" in error.message


def test_a_recipe_without_stages_is_an_error(write) -> None:
    assert reasons(write("x = 1\n")) == ["no-stages"]


def test_a_missing_recipe_is_a_usage_error(tmp_path) -> None:
    (error,) = errors_of(str(tmp_path / "none.py"))
    assert (error.domain, error.reason) == (Domain.USAGE, "no-recipe")


def test_an_input_stage_needs_a_name(write) -> None:
    path = write(
        HEAD + 'b = Script("a.sh", environment=env, inputs={"a": Script("a.sh", environment=env)})\n', a_dot_sh=""
    )
    assert reasons(path) == ["stage-unnamed"]


def test_checks_of_a_target_are_found(write) -> None:
    recipe = load(
        write(
            HEAD
            + 'a = Script("a.sh", environment=env)\n'
            + 'smoke = Script("a.sh", environment=env, inputs={"a": a}, check=True)\ndefault = a\n',
            a_dot_sh="",
        )
    )
    assert recipe.checks_of(recipe.select(None)) == [recipe.stages["smoke"]]


class TestParameters:
    """``--set K=V`` passes declared parameters, typed."""

    RECIPE = HEAD + (
        'n = param("n", 3)\nfast = param("fast", False)\nwhat = param("what", type=str)\n'
        'a = Script("a.sh", environment=env, parameters={"n": n, "fast": fast, "what": what})\n'
    )

    def test_values_have_the_declared_type(self, write) -> None:
        recipe = load(write(self.RECIPE, a_dot_sh=""), {"n": "4", "fast": "yes", "what": "w"})
        assert recipe.stages["a"].parameters_in_full() == {"n": 4, "fast": True, "what": "w"}

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ({"n": "four", "what": "w"}, "parameter-type"),
            ({"fast": "perhaps", "what": "w"}, "parameter-type"),
            ({}, "parameter-missing"),
            ({"what": "w", "nn": "1"}, "unknown-parameter"),
            ({"whatt": "w"}, "unknown-parameter"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, write, given, reason: str) -> None:
        assert reason in reasons(write(self.RECIPE, a_dot_sh=""), given)


class TestPurity:
    """ARCHITECTURE 10: sockets, subprocess, environment, clock and ctypes are refused with the line."""

    @pytest.mark.parametrize(
        "code",
        [
            "import time",
            "from time import time",
            "import datetime; datetime.datetime.now()",
            "from datetime import date; date.today()",
            "import socket",
            "import urllib.request",
            "import subprocess",
            "import ctypes",
            "import random",
            "import uuid",
            "import os; os.environ['HOME']",
            "import os; os.environ.get('HOME')",
            "import os; os.getenv('HOME')",
            "import os; os.system('true')",
            "import os; os.path.expanduser('~')",
            "from pathlib import Path; Path.home()",
            "import os; os.cpu_count()",
            "open('x', 'w')",
            "from pathlib import Path; Path('x').write_text('')",
            "import os; os.mkdir('x')",
            "__import__('socket')",
        ],
    )
    def test_impure_code_is_refused_with_its_line(self, write, code: str) -> None:
        path = write(f"x = 1\n{code}\n")
        found = errors_of(path)
        assert found[0].reason == "impure"
        assert "recipe.py:2" in found[0].message
        assert not os.path.exists(os.path.join(os.path.dirname(path), "x"))

    def test_packages_that_are_not_beside_it_are_refused(self, write) -> None:
        assert reasons(write("import numpy\n")) == ["import-not-allowed"]

    def test_the_guards_are_gone_afterwards(self, write) -> None:
        errors_of(write("import time\n"))
        import datetime
        import time

        assert time.time() > 0
        assert datetime.datetime.now(datetime.UTC).year > 2000
        assert os.environ.get("PATH")

    def test_modules_beside_the_recipe_work_and_leave_no_bytecode(self, write, tmp_path) -> None:
        path = write(
            HEAD + "import helper\nfrom kit import thing\nfrom kit.deep import more\n"
            'a = Script("a.sh", environment=env, parameters={"v": helper.VALUE, "t": thing.T, "m": more})\n',
            {
                "a.sh": "",
                "helper.py": "VALUE = 7\n",
                "kit/__init__.py": "",
                "kit/thing.py": "from . import deep\nT = deep.more\n",
                "kit/deep.py": "more = 9\n",
            },
        )
        recipe = load(path)
        assert recipe.stages["a"].parameters_in_full() == {"v": 7, "t": 9, "m": 9}
        assert not list(tmp_path.rglob("__pycache__"))


class TestObservation:
    """The evaluation cache is exact because everything that steered the recipe was recorded."""

    def observed(self, path: str) -> set[str]:
        memo = Memo()
        load(path, memo=memo)
        return {os.path.basename(name) for name, _ in memo.observed}

    def test_files_read_folders_listed_and_looks_are_recorded(self, write) -> None:
        path = write(
            HEAD + "import os, json, helper\nfrom pathlib import Path\n"
            "text = Path('data.json').read_text()\nnames = os.listdir('models')\nthere = Path('absent').exists()\n"
            'a = Script("a.sh", environment=env)\n',
            {"a.sh": "", "data.json": "{}", "models/m": "", "helper.py": ""},
        )
        assert {"recipe.py", "data.json", "models", "absent", "helper.py"} <= self.observed(path)
