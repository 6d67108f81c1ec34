"""What the files say, on a real file system."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hermetic.harvest import place
from hermetic.recipe.harvest import Harvest, LogLine

HARVEST = Harvest(
    artifacts=("config.json", "rank*.engine"), complete=LogLine("x"), folders=("tmp/*-llm-workspace/tmp.engine", "out")
)


def write(root: Path, name: str, content: bytes = b"ftrt") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(found: place.Found) -> list[str]:
    return [file.name for file in found[1]]


def test_the_first_folder_that_has_any(tmp_path: Path) -> None:
    write(tmp_path, "out/config.json", b"{}")
    assert place.find(str(tmp_path), HARVEST)[0] == "out"
    write(tmp_path, "tmp/x1-llm-workspace/tmp.engine/rank0.engine")
    found = place.find(str(tmp_path), HARVEST)
    assert (found[0], names(found), found[2]) == (
        "tmp/x1-llm-workspace/tmp.engine",
        ["rank0.engine"],
        ("config.json",),
    )


def test_two_folders_for_one_glob(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path, f"tmp/x{number}-llm-workspace/tmp.engine/rank0.engine")
    assert "both have artefacts" in place.find(str(tmp_path), HARVEST)[3]


def test_symlinks_pipes_and_hidden_files_are_no_artefacts(tmp_path: Path) -> None:
    outside = write(tmp_path, "secret.engine")
    (tmp_path / "out").mkdir()
    os.symlink(outside, tmp_path / "out/rank0.engine")
    os.mkfifo(tmp_path / "out/rank1.engine")
    write(tmp_path, "out/.rank2.engine")
    os.symlink(tmp_path / "out", tmp_path / "tmp")
    assert place.find(str(tmp_path), HARVEST)[1] == ()


def judged(root: Path, name: str, content: bytes):
    write(root, f"out/{name}", content)
    harvest = Harvest(artifacts=(name,), complete=LogLine("x"))
    (file,) = place.find(str(root), harvest)[1]
    return place.content(str(root), "out", file)


def safetensors(ends: int, size: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [ends], "data_offsets": [0, ends]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize(
    ("name", "content", "problem", "proven"),
    [
        ("a.plan", b"ftrt1234", "", False),
        ("a.plan", b"ptrt1234", "does not start with ftrt", False),
        ("a.plan", b"", "is empty", False),
        ("a.json", b'{"a": 1}', "", True),
        ("a.json", b'{"a": 1', "no whole JSON", False),
        ("a.json", b"12", "", False),  # might have become 123
        ("a.json", b"\xff\xfe", "no whole JSON", False),
        ("a.safetensors", safetensors(8, 8), "", True),
        ("a.safetensors", safetensors(8, 7), "bytes of", False),
        ("a.safetensors", b"\xff" * 20, "no whole safetensors header", False),
        ("a.txt", b"words", "", False),
    ],
)
def test_contents(tmp_path: Path, name: str, content: bytes, problem: str, proven: bool) -> None:
    found = judged(tmp_path, name, content)
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)
    assert found.proven is proven


@pytest.mark.parametrize("allocate", ["truncate", "fallocate"])
def test_a_size_without_content_is_a_hole(tmp_path: Path, allocate: str) -> None:
    path = write(tmp_path, "out/a.plan", b"ftrt")
    with open(path, "r+b") as stream:
        if allocate == "truncate":
            stream.truncate(1 << 20)
        else:
            os.posix_fallocate(stream.fileno(), 0, 1 << 20)
    (file,) = place.find(str(tmp_path), Harvest(artifacts=("a.plan",), complete=LogLine("x")))[1]
    hole = place.content(str(tmp_path), "out", file).hole
    if hole is None:
        pytest.skip("needs a file system that tells what was never written")
    assert 0 < hole < 1 << 20


def test_another_file_of_the_same_name(tmp_path: Path) -> None:
    path = write(tmp_path, "out/a.plan")
    (file,) = place.find(str(tmp_path), Harvest(artifacts=("a.plan",), complete=LogLine("x")))[1]
    path.rename(tmp_path / "out/kept")
    write(tmp_path, "out/a.plan")
    assert "is not the file that it was" in place.content(str(tmp_path), "out", file).problem


@pytest.mark.parametrize(
    ("tail", "blank"), [(b"\0" * 4, True), (b"\0" * 5000, True), (b"\0" * 3, False), (b"\0\0\0\0x", False)]
)
def test_zeros_at_the_end_are_seen(tmp_path: Path, tail: bytes, blank: bool) -> None:
    """Of a file that was filled before it is written; four of them, since good files end in fewer now and then."""
    write(tmp_path, "out/a.plan", b"ftrt" + b"x" * 100 + tail)
    (file,) = place.find(str(tmp_path), Harvest(artifacts=("a.plan",), complete=LogLine("x")))[1]
    assert place.content(str(tmp_path), "out", file).blank is blank
