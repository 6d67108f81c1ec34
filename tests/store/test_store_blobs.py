"""Blobs are a hint: shared where that is safe, never believed, never needed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_kit import ENGINE, Bench, key_of, resolved_of

from hermetic.errors import HermeticError

SMALL = {"a": b"content"}


def blob_of(bench: Bench, path: Path) -> Path:
    return next(blob for blob in (bench.store.root / "blobs").glob("*/*") if blob.samefile(path))


@pytest.fixture
def first(bench: Bench) -> Path:
    """A file in the store that has a blob."""
    return bench.path(bench.make(SMALL, "first")) / "a"


def test_a_blob_is_named_by_its_bytes_and_executable_bit(bench: Bench) -> None:
    path = bench.path(bench.make(ENGINE))
    assert blob_of(bench, path / "run").name.endswith(".x")
    assert len(blob_of(bench, path / "config.json").name) == 64


def rot(blob: Path) -> None:
    """Other bytes, everything else as it was: what a bad disk leaves."""
    blob.write_bytes(b"CONTENT")
    blob.chmod(0o444)
    os.utime(blob, (315_532_800, 315_532_800))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blob: blob.write_bytes(b"CONTENT"),
        lambda blob: blob.write_bytes(b"con"),
        lambda blob: (blob.write_bytes(b"CONTENT"), blob.chmod(0o444), os.utime(blob, (0, 0))),
        rot,
        lambda blob: blob.unlink(),
        lambda blob: (blob.unlink(), blob.symlink_to("/etc/passwd")),
    ],
    ids=["rewritten", "truncated", "another time", "rotten", "gone", "a symlink"],
)
def test_a_blob_that_was_touched_is_not_used(bench: Bench, first: Path, spoil: Callable[[Path], object]) -> None:
    blob = blob_of(bench, first)
    blob.chmod(0o644)
    spoil(blob)
    second = bench.path(bench.make(SMALL, "second")) / "a"
    assert second.read_bytes() == b"content"
    assert not second.samefile(first)
    assert blob.samefile(second)
    assert {problem.key for problem in bench.store.verify()} <= {key_of("first")}


def failing(code: int, *, only_into: str = "") -> Callable[..., None]:
    real = os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        if only_into in str(target):
            raise OSError(code, os.strerror(code))
        real(source, target, **options)

    return link


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EXDEV])
def test_without_hard_links_outputs_are_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "link", failing(code))
    record = bench.make(ENGINE)
    with bench.store.begin() as run, bench.store.lock(key_of("adopted")):
        adopted = run.adopt(record, key=key_of("adopted"), name="adopted", preimage={}, resolved=None)
    assert bench.store.verify() == []
    one, two = (bench.path(r) / "config.json" for r in (record, adopted))
    assert one.read_bytes() == two.read_bytes()
    assert not one.samefile(two)


def test_a_blob_with_too_many_links_hands_over(bench: Bench, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = blob_of(bench, first)
    real = os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        if str(source) == str(old):
            raise OSError(errno.EMLINK, "Too many links")
        real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        second = bench.path(bench.make(SMALL, "second")) / "a"
    assert not second.samefile(first)
    assert old.samefile(second)
    assert (bench.path(bench.make(SMALL, "third")) / "a").samefile(second)
    assert bench.store.verify() == []


def test_other_errors_of_linking_are_not_hidden(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    with pytest.raises(HermeticError) as caught:
        bench.make(ENGINE)
    assert caught.value.reason == "store-full"


class TestAdoption:
    def test_it_links_and_records(self, bench: Bench) -> None:
        record = bench.make(ENGINE, resolved=resolved_of("same"), references=[key_of("r")])
        with bench.store.begin() as run, bench.store.lock(key_of("adopted")):
            adopted = run.adopt(
                record, key=key_of("adopted"), name="adopted", preimage={"x": 1}, resolved=resolved_of("same"),
                platform={"gpu": "none"},
            )  # fmt: skip
        assert (adopted.tree, adopted.size, adopted.references) == (record.tree, record.size, record.references)
        assert (adopted.impure, adopted.platform, adopted.name) == (False, {"gpu": "none"}, "adopted")
        assert (bench.path(adopted) / "weights/rank0.engine").samefile(bench.path(record) / "weights/rank0.engine")
        assert bench.store.resolved(resolved_of("same")) == sorted([record.key, adopted.key])
        assert bench.store.preimage(adopted.key) == {"x": 1}
        assert bench.store.verify() == []

    @pytest.mark.parametrize(("old", "new"), [(True, False), (False, True), (True, True)])
    def test_impurity_is_inherited(self, bench: Bench, old: bool, new: bool) -> None:
        record = bench.make(SMALL, impure=old)
        with bench.store.begin() as run:
            assert run.adopt(record, key=key_of("n"), name="n", preimage={}, resolved=None, impure=new).impure

    @pytest.mark.parametrize("change", ["missing", "truncated", "extra"])
    def test_a_changed_output_is_not_adopted(self, bench: Bench, change: str) -> None:
        record = bench.make(SMALL)
        path = bench.path(record)
        path.chmod(0o755)
        (path / "a").chmod(0o644)
        {
            "missing": (path / "a").unlink,
            "truncated": lambda: os.truncate(path / "a", 1),
            "extra": (path / "b").touch,
        }[change]()
        with bench.store.begin() as run, pytest.raises(HermeticError) as caught:
            run.adopt(record, key=key_of("n"), name="n", preimage={}, resolved=None)
        assert caught.value.reason == "corrupt"
        assert bench.store.realisation(key_of("n")) is None
        assert os.listdir(bench.store.root / "tmp") == []

    def test_a_realised_key_is_left_alone(self, bench: Bench) -> None:
        record, other = bench.make(SMALL), bench.make({"b": b""}, "other")
        with bench.store.begin() as run:
            assert run.adopt(record, key=other.key, name="other", preimage={}, resolved=None) == other


def test_a_damaged_output_is_mended_by_building_it_again(bench: Bench) -> None:
    record = bench.make(SMALL)
    file = bench.path(record) / "a"
    file.chmod(0o644)
    rot(file)
    assert bench.store.verify()
    os.unlink(bench.store.layout.record(record.key))
    assert bench.make(SMALL).tree == record.tree
    assert bench.store.verify() == []
