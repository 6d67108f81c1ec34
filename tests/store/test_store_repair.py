"""``verify --repair``: what is damaged goes, what is whole stays, and the next build mends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import ENGINE, Bench, Script, key_of, resolved_of
from test_store_verify import flip_quietly, tamper

from hermetic.errors import Domain, HermeticError
from hermetic.store import Realisation, Wishes, remove_tree

REPAIR_MATRIX = [
    "repair.after-blobs", "repair.after-record", "repair.after-sync", "repair.after-move", "trash.after-tree",
]  # fmt: skip
REPAIR = "Store.open(arguments[0]).repair()"


@pytest.fixture
def record(bench: Bench) -> Realisation:
    bench.make({"untouched": b"data", "config.json": b"{}"}, "other")
    return bench.make(ENGINE, resolved=resolved_of("engine"))


def tidy(path: Path) -> None:
    """As the store leaves folders: a change by hand touched this one's time and mode."""
    path.chmod(0o555)
    os.utime(path, (315_532_800, 315_532_800))


def damage(bench: Bench, record: Realisation, name: str) -> None:
    tamper(bench.path(record) / name, flip_quietly)
    tidy((bench.path(record) / name).parent)


def test_a_whole_store_is_left_alone(bench: Bench, record: Realisation) -> None:
    assert bench.store.repair() == []
    assert {found.name for found in bench.store.records()} == {"engine", "other"}


def test_a_damaged_path_goes_and_the_next_build_mends_it(bench: Bench, record: Realisation) -> None:
    damage(bench, record, "weights/rank1.engine")
    (drop,) = bench.store.repair()
    assert (drop.key, drop.path, drop.why_not, drop.held) == (record.key, bench.path(record), "", "")
    assert [problem.what for problem in drop.problems] == ["has other contents than recorded"]
    assert bench.store.realisation(record.key) is None
    assert bench.store.resolved(resolved_of("engine")) == []
    assert os.listdir(bench.store.root / "trash") == []
    assert bench.store.verify() == []
    assert bench.make(ENGINE).tree == record.tree
    bench.store.collect(Wishes(dry_run=True))
    assert bench.store.verify() == []


def test_a_file_that_several_have_takes_them_all(bench: Bench, record: Realisation) -> None:
    damage(bench, record, "config.json")
    drops = bench.store.repair()
    assert {drop.path.name[33:] for drop in drops if drop.key is not None} == {"engine", "other"}
    assert bench.store.verify() == []
    assert list(bench.store.records()) == []


def test_one_path_only(bench: Bench, record: Realisation) -> None:
    """The rest is not read, but the blob of the damaged file goes with it."""
    damage(bench, record, "config.json")
    (drop,) = bench.store.repair([record.key])
    assert drop.key == record.key
    assert {problem.key for problem in bench.store.verify()} == {key_of("other")}


def test_what_is_rooted_is_said(bench: Bench, record: Realisation, tmp_path: Path) -> None:
    bench.store.add_root(tmp_path / "result", record.key)
    damage(bench, record, "run")
    (drop,) = bench.store.repair()
    assert drop.held == f"rooted by {tmp_path}/result"
    (bench.store.root / "roots" / "bad").write_text("{")
    bench.make(ENGINE)
    damage(bench, record, "run")
    assert "cannot be read" in bench.store.repair()[0].held


def test_what_is_in_use_stays_until_it_is_not(bench: Bench, record: Realisation) -> None:
    damage(bench, record, "run")
    with bench.store.begin() as run:
        run.lease([record.key])
        drop, blob = bench.store.repair()
        assert drop.why_not == f"run {run.id} is using it"
        assert (blob.key, blob.why_not) == (None, "")  # the damaged file under its other name is nobody's to use
    with bench.store.lock(record.key):
        (drop,) = bench.store.repair()
        assert drop.why_not == "somebody is realising it"
    assert bench.path(record).exists()
    (drop,) = bench.store.repair()
    assert drop.why_not == ""


def gone(bench: Bench, record: Realisation) -> None:
    remove_tree(str(bench.path(record)))


def truncated(folder: str) -> Callable[[Bench, Realisation], None]:
    def change(bench: Bench, record: Realisation) -> None:
        name = record.tree.hex if folder == "trees" else record.key.hex
        (bench.store.root / folder / name[:2] / name).write_bytes(b"{")

    return change


@pytest.mark.parametrize("change", [gone, truncated("trees"), truncated("derivations"), truncated("realisations")])
def test_lost_outputs_and_records(
    bench: Bench, record: Realisation, change: Callable[[Bench, Realisation], None]
) -> None:
    change(bench, record)
    (drop,) = bench.store.repair()
    assert drop.key == record.key
    bench.make(ENGINE)
    assert bench.store.verify() == []
    assert violations(bench.store.root) == []


def test_a_damaged_blob(bench: Bench, record: Realisation) -> None:
    blob = next(path for path in (bench.store.root / "blobs").glob("*/*") if path.stat().st_size == 4)
    blob.unlink()
    blob.write_bytes(b"something else")
    (drop,) = bench.store.repair()
    assert (drop.key, drop.path) == (None, blob)
    assert not blob.exists()
    assert len(list(bench.store.records())) == 2


def test_only_the_owner_or_root(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: bench.store.root.stat().st_uid + 1)
    with pytest.raises(HermeticError) as caught:
        bench.store.repair()
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "not-the-owner")


@pytest.mark.parametrize("point", REPAIR_MATRIX)
def test_killed_at_any_point_the_next_repair_finishes(
    bench: Bench, record: Realisation, script: Script, point: str
) -> None:
    damage(bench, record, "run")
    killed = script(REPAIR, bench.store.root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    script(REPAIR, bench.store.root)
    assert bench.store.verify() == []
    bench.make(ENGINE)
    assert violations(bench.store.root) == []
    bench.store.collect(Wishes())
    assert violations(bench.store.root, is_tidy=True) == []
