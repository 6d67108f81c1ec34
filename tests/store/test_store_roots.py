"""Taking a root back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import ENGINE, Bench, Script

from hermetic.store import Store, Wishes

ROOT_MATRIX = ["root.after-unlink"]
REMOVE = "assert Store.open(arguments[0]).remove_root(arguments[1])"


@pytest.fixture
def rooted(bench: Bench, tmp_path: Path) -> Path:
    bench.store.add_root(tmp_path / "result", bench.make(ENGINE).key)
    return tmp_path / "result"


def test_the_record_is_on_the_disk_before_its_link(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power loss could leave a link that keeps nothing, or a record that stops every collection."""
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, (tmp_path / "l").is_symlink())))
    bench.store.add_root(tmp_path / "l", bench.make(ENGINE).key)
    (record,) = (bench.store.root / "roots").iterdir()
    assert {(path.stat().st_ino, False) for path in (record, record.parent)} <= set(synced)


def test_the_link_and_its_record_go(bench: Bench, rooted: Path) -> None:
    assert bench.store.remove_root(rooted)
    assert not os.path.lexists(rooted)
    assert os.listdir(bench.store.root / "roots") == []
    assert not bench.store.remove_root(rooted)
    assert len(bench.store.collect(Wishes()).removed) == 1


def test_what_is_no_link_into_a_store_is_left_alone(bench: Bench, rooted: Path) -> None:
    rooted.unlink()
    rooted.write_text("mine")
    assert bench.store.remove_root(rooted)
    assert rooted.read_text() == "mine"
    rooted.unlink()
    rooted.symlink_to("elsewhere")
    assert not bench.store.remove_root(rooted)
    assert os.readlink(rooted) == "elsewhere"


def test_by_another_spelling(bench: Bench, rooted: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path)
    assert bench.store.remove_root(tmp_path / "alias" / "." / "result")
    assert bench.store.roots() == []


@pytest.mark.parametrize("point", ROOT_MATRIX)
def test_killed_in_between_the_next_time_finishes(bench: Bench, rooted: Path, script: Script, point: str) -> None:
    killed = script(REMOVE, bench.store.root, rooted, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert violations(bench.store.root) == []
    assert [root.current for root in Store.open(bench.store.root).roots()] == [False]
    script(REMOVE, bench.store.root, rooted)
    assert bench.store.roots() == []
