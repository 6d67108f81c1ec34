"""What people who install hermetic get."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without its generated folders, so that a build leaves nothing in it."""
    target = tmp_path_factory.mktemp("wheel") / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "result*", "dist")
    shutil.copytree(repository, target, symlinks=True, ignore=ignored)
    return target


def build(copy: Path, target: Path, seconds: str) -> Path:
    environment = dict(os.environ) | {"SOURCE_DATE_EPOCH": seconds}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target],
        cwd=copy,
        env=environment,
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def names(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    with zipfile.ZipFile(build(copy, tmp_path_factory.mktemp("dist"), "1700000000")) as wheel:
        return set(wheel.namelist())


def test_the_wheel_has_every_file_of_the_package(copy: Path, names: set[str]) -> None:
    """Programs and lock files are data to Python and the point of a stage to us."""
    files = {str(path.relative_to(copy)) for path in (copy / "hermetic").rglob("*") if path.is_file()}
    assert files <= names


def test_the_wheel_has_the_licence_and_nothing_besides_the_package(names: set[str]) -> None:
    info = {name for name in names if ".dist-info/" in name}
    assert any(name.endswith("licenses/LICENSE") for name in info)
    assert all(name.startswith("hermetic/") for name in names - info)


def test_the_wheel_is_reproducible(copy: Path, tmp_path: Path) -> None:
    first, second = (build(copy, tmp_path / name, "315532800").read_bytes() for name in ("one", "two"))
    assert first == second
