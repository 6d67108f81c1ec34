"""Bare ``verify`` reads everything again; a difference is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from store_kit import ENGINE, Bench, Link, key_of

from hermetic.store import Problem, Realisation, remove_tree


@pytest.fixture
def record(bench: Bench) -> Realisation:
    bench.make({"untouched": b"data"}, "other")
    return bench.make({**ENGINE, "sub": {"deep": {"file": b"bytes", "link": Link("file")}}})


def tamper(path: Path, change: Callable[[Path], object]) -> None:
    path.parent.chmod(0o755)
    if path.exists() and not path.is_symlink():
        path.chmod(path.stat().st_mode | 0o200)
    change(path)


def flip_quietly(path: Path) -> None:
    """One bit, with size, mode and time as they were."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, (315_532_800, 315_532_800))


def replace_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("../deep/file")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("sub/deep/file", flip_quietly, "other contents"),
        ("weights/rank1.engine", flip_quietly, "other contents"),
        ("sub/deep/file", lambda path: path.write_bytes(b"longer bytes"), "12 bytes, recorded as 5"),
        ("run", lambda path: path.chmod(0o755), "mode 0755 instead of 0555"),
        ("sub/deep/file", lambda path: path.chmod(0o555), "mode 0555 instead of 0444"),
        ("sub/deep", lambda path: path.chmod(0o755), "mode 0755 instead of 0555"),
        ("sub/deep/file", lambda path: os.utime(path, (1, 1)), "another time"),
        ("sub/deep/file", Path.unlink, "is missing"),
        ("sub/deep/extra", Path.touch, "is not in the record"),
        ("sub/deep/link", replace_link, "points to '../deep/file', recorded as 'file'"),
        ("sub/deep/file", to_folder, "is a dir, recorded as a file"),
        ("sub/deep/file", lambda path: (path.unlink(), os.mkfifo(path)), "is a special file"),
    ],
)
def test_a_change_by_hand_is_found(
    bench: Bench, record: Realisation, name: str, change: Callable[[Path], object], what: str
) -> None:
    path = bench.path(record) / name
    tamper(path, change)
    problems = [problem for problem in bench.store.verify() if problem.key == record.key]
    assert [problem for problem in problems if problem.path == path and what in problem.what], problems
    assert {problem.path for problem in problems} <= {path, path.parent}


def test_a_whole_store_has_no_problems(bench: Bench, record: Realisation) -> None:
    seen: list[tuple[int, int]] = []
    assert bench.store.verify(progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (record.size + 4, record.size + 4)


def test_a_missing_output_is_found(bench: Bench, record: Realisation) -> None:
    remove_tree(str(bench.path(record)))
    (problem,) = bench.store.verify()
    assert (problem.key, problem.path) == (record.key, bench.path(record))
    assert bench.store.realisation(record.key) is None


def test_a_missing_folder_is_one_problem(bench: Bench, record: Realisation) -> None:
    bench.path(record).chmod(0o755)
    remove_tree(str(bench.path(record) / "sub"))
    bench.path(record).chmod(0o555)
    os.utime(bench.path(record), (315_532_800, 315_532_800))
    assert [problem.path for problem in bench.store.verify()] == [bench.path(record) / "sub"]


def test_only_what_is_asked_for_is_read(bench: Bench, record: Realisation) -> None:
    tamper(bench.path(record) / "config.json", flip_quietly)
    assert bench.store.verify([key_of("other")]) == []
    assert bench.store.verify([record.key])
    (problem,) = bench.store.verify([key_of("nothing")])
    assert problem.key == key_of("nothing")


def records_of(bench: Bench, folder: str) -> list[Path]:
    return sorted((bench.store.root / folder).glob("*/*"))


@pytest.mark.parametrize("folder", ["trees", "derivations", "realisations"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":2}', b"\xff"])
def test_damaged_records_are_found_and_nothing_raises(bench: Bench, folder: str, data: bytes) -> None:
    record = bench.make(ENGINE)
    (path,) = records_of(bench, folder)
    path.write_bytes(data)
    problems = bench.store.verify()
    if folder == "derivations" and data in (b"[]", b'{"version":2}'):
        assert problems == []  # canonical; whether it is the key's is for who derives keys
    else:
        assert problems
        assert {problem.key for problem in problems} == {record.key}


def test_a_record_that_was_edited_is_found(bench: Bench) -> None:
    record = bench.make(ENGINE)
    (path,) = records_of(bench, "realisations")
    document = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**document, "impure": True}).encode())
    assert [problem.path for problem in bench.store.verify()] == [path]
    path.write_bytes(json.dumps({**document, "size": 1}, sort_keys=True, separators=(",", ":")).encode())
    assert [problem.path for problem in bench.store.verify()] == [bench.path(record)]


def test_a_blob_that_is_not_its_name_is_found(bench: Bench) -> None:
    bench.make(ENGINE)
    blob = records_of(bench, "blobs")[0]
    os.unlink(blob)
    blob.write_bytes(b"something else")
    assert bench.store.verify() == [Problem(None, blob, "has other contents than its name says")]


def test_a_manifest_of_another_tree_is_found(bench: Bench, record: Realisation) -> None:
    mine = bench.store.root / "trees" / record.tree.hex[:2] / record.tree.hex
    other = next(path for path in records_of(bench, "trees") if path != mine)
    mine.write_bytes(other.read_bytes())
    (problem,) = bench.store.verify()
    assert problem.key == record.key
    assert "describes" in problem.what
