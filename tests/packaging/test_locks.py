"""The project's own locks: complete, hashed, without an address, and in step with pyproject.toml.

Whether an index would resolve them to the same today can't be asked without an index; what can be is whether each
lock still answers pyproject.toml, and whether what it installs is whole.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("base", "dev")
# What only a stage's lock file may bring.
HEAVY = {"torch", "transformers", "nncf", "openvino", "openvino-genai", "peft", "nvidia-modelopt", "tensorrt-llm"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))


def entries(repository: Path, lock: str) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a lock, each with its hashes. A package may be there once for each range of Pythons."""
    text = (repository / "requirements" / f"{lock}.txt").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    split = [line.split(" --hash=") for line in lines]
    return [(Requirement(requirement), [option.strip() for option in options]) for requirement, *options in split]


def pins(repository: Path, lock: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for requirement, _ in entries(repository, lock):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def wanted(project: dict[str, Any], lock: str) -> Iterator[Requirement]:
    """What pyproject.toml asks of a lock, with the extra `all` unrolled to the packages of other people."""
    groups = ["build"] if lock == "base" else ["build", "dev"]
    texts = list(project["project"]["dependencies"])
    texts += [text for group in groups for text in project["dependency-groups"][group]]
    texts += extra(project, "all")
    yield from map(Requirement, texts)


def extra(project: dict[str, Any], name: str) -> list[str]:
    texts = []
    for text in project["project"]["optional-dependencies"][name]:
        requirement = Requirement(text)
        if requirement.name == project["project"]["name"]:
            texts += [inner for other in requirement.extras for inner in extra(project, other)]
        else:
            texts.append(text)
    return texts


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_locked_at_an_allowed_version(repository: Path, project: dict[str, Any], lock: str) -> None:
    locked = pins(repository, lock)
    for requirement in wanted(project, lock):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{requirement} is not in {lock}.txt; run `make lock`"
        for (pin,) in (entry.specifier for entry in locked[name]):
            assert requirement.specifier.contains(pin.version), f"{requirement} but {pin.version} in {lock}.txt"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_one_version_with_hashes(repository: Path, lock: str) -> None:
    for requirement, hashes in entries(repository, lock):
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", item) for item in hashes)


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_holds_an_address(repository: Path, lock: str) -> None:
    text = (repository / "requirements" / f"{lock}.txt").read_text("utf-8")
    assert not re.search(r"://|@|^-|--(extra-)?index|find-links", text, re.MULTILINE)


def test_the_development_lock_is_the_base_lock_and_more(repository: Path) -> None:
    base, dev = ({str(requirement): hashes for requirement, hashes in entries(repository, lock)} for lock in LOCKS)
    assert base.items() <= dev.items()


def test_heavy_libraries_are_in_no_lock_and_no_extra(repository: Path, project: dict[str, Any]) -> None:
    assert not HEAVY & set(pins(repository, "dev"))
    extras = project["project"]["optional-dependencies"]
    named = {Requirement(text).name for name in extras if name != "tensorrt-llm" for text in extra(project, name)}
    assert not HEAVY & named


def test_tensorrt_llm_is_pinned_and_outside_all(project: dict[str, Any]) -> None:
    assert project["project"]["optional-dependencies"]["tensorrt-llm"] == ["tensorrt-llm==1.2.1"]
    assert not any(text.startswith("tensorrt") for text in extra(project, "all"))


def test_all_is_every_extra_that_runs_on_a_cpu(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    on_cpu = set(extras) - {"all", "gpu", "tensorrt-llm"}
    everything = {text for name in on_cpu for text in extra(project, name)}
    assert set(extra(project, "all")) == everything


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_development_lock_needs_nothing_that_it_lacks(repository: Path, python: str) -> None:
    """`pip install --no-deps` resolves nothing, so a package missing from the lock would only be missed at import."""
    locked = [
        (canonicalize_name(requirement.name), requirement.marker) for requirement, _ in entries(repository, "dev")
    ]
    marks = default_environment() | {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    here = [name for name, marker in locked if marker is None or marker.evaluate(marks)]
    assert len(here) == len(set(here))
    for name in here:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            assert python != "{}.{}".format(*sys.version_info), f"{name} is locked and not installed here"
            continue
        for requirement in map(Requirement, needs):
            if requirement.marker is None or requirement.marker.evaluate(marks):
                assert canonicalize_name(requirement.name) in here, f"{name} needs {requirement}"
