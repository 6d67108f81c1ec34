"""Inputs are staged as links under names that say nothing, and copied where links cannot be made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import workspace


@pytest.fixture
def place(tmp_path: Path) -> str:
    folder = tmp_path / "workspace"
    folder.mkdir()
    workspace.prepare(str(folder))
    return str(folder)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "key-tree"
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/file").write_text("text")
    (root / "deep/link").symlink_to("er/file")
    (root / "tool").write_text("#!")
    (root / "tool").chmod(0o555)
    return root


def test_the_folders_are_there(place: str) -> None:
    assert sorted(os.listdir(place)) == ["home", "in", "out", "program", "tmp"]
    workspace.prepare(place)


def test_a_folder_is_linked(place: str, tree: Path) -> None:
    assert workspace.stage_inputs(place, {"data": str(tree)}) == {"data": "/build/in/data"}
    staged = Path(place) / "in/data"
    assert (staged / "deep/er/file").samefile(tree / "deep/er/file")
    assert os.readlink(staged / "deep/link") == "er/file"
    assert not staged.samefile(tree)


def test_a_file_is_linked_under_its_role(place: str, tree: Path) -> None:
    workspace.stage_inputs(place, {"one": str(tree / "tool")})
    assert (Path(place) / "in/one").samefile(tree / "tool")


def test_what_others_may_change_is_copied(place: str, tree: Path) -> None:
    workspace.stage_inputs(place, {"data": str(tree)}, link=False)
    staged = Path(place) / "in/data"
    assert (staged / "deep/er/file").read_text() == "text"
    assert not (staged / "deep/er/file").samefile(tree / "deep/er/file")
    assert (staged / "tool").stat().st_mode & 0o777 == 0o555
    assert (staged / "deep/er/file").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_no_link_can_be_made_it_is_copied(
    place: str, tree: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    workspace.stage_inputs(place, {"data": str(tree)})
    assert (Path(place) / "in/data/deep/er/file").read_text() == "text"


@pytest.mark.parametrize("role", ["a/b", "..", ".", ""])
def test_a_role_is_one_name(place: str, tree: Path, role: str) -> None:
    with pytest.raises(HermeticError) as caught:
        workspace.stage_inputs(place, {role: str(tree)})
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "role-invalid")
