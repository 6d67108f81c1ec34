"""Of nixpkgs exactly what nix/attributes.json lists is used, and the stand-in has nothing else to offer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EXPRESSIONS = ("flake.nix", "nix/lib.nix", "nix/module.nix", "nix/stages.nix")
#: What is made of a version: pkgs."python${...}".
_BY_VERSION = "python311"


@pytest.fixture(scope="module")
def listed() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((REPOSITORY / "nix/attributes.json").read_text("utf-8"))
    return found


def used(pattern: str) -> set[str]:
    texts = (re.sub(r"(?m)#.*$", "", (REPOSITORY / name).read_text("utf-8")) for name in EXPRESSIONS)
    return {name.rstrip(".") for text in texts for name in re.findall(pattern, text)}


def test_the_list_is_what_the_expressions_use(listed: dict[str, list[str]]) -> None:
    of_lib = used(r"(?<![\w.\"/])lib\.([A-Za-z][\w'.]*)") - {"nix"}  # a file's name
    of_pkgs = used(r"(?<![\w.])(?:pkgs|final|\(pkgsOf system\))\.([A-Za-z][\w.-]*)") | {_BY_VERSION}
    of_python = used(r"(?<![\w.])packages\.([a-z]\w*)") - {"nix"}
    assert {"lib": sorted(of_lib), "pkgs": sorted(of_pkgs), "python3.pkgs": sorted(of_python)} == listed


def test_the_stand_in_has_all_of_it(listed: dict[str, list[str]]) -> None:
    """By name; that it is also used as nixpkgs means it, the builds say."""
    library = (REPOSITORY / "nix/testing/lib.nix").read_text("utf-8")
    packages = (REPOSITORY / "nix/testing/packages.nix").read_text("utf-8")
    for name in listed["lib"]:
        assert re.search(rf"(?m)^\s+{re.escape(name.partition('.')[0])}(?![\w'])", library), name
    for name in listed["pkgs"]:
        assert re.search(rf'(?m)^\s+"?{re.escape(name.partition(".")[0].replace("311", ""))}', packages), name
