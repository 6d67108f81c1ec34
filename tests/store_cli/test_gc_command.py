"""``hermetic gc`` and ``hermetic root``, as people meet them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from store_kit import Bench, key_of

from hermetic.store import Realisation


@pytest.fixture
def paths(bench: Bench, tmp_path: Path) -> tuple[Realisation, Realisation]:
    kept, dead = bench.make({"k": b"k" * 10}, "kept"), bench.make({"d": b"d" * 2000}, "dead")
    bench.store.add_root(tmp_path / "result", kept.key)
    return kept, dead


def test_a_dry_run_names_everything_and_why(cli, bench, paths, tmp_path) -> None:
    kept, dead = paths
    shown = cli("gc", "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert shown.lines == [
        f"   2.0 kB  {bench.path(dead)}  (nothing keeps it alive)",
        f"     kept  {bench.path(kept)}  (rooted by {tmp_path}/result)",
    ]
    assert shown.stderr == "would remove 1 paths, 2.0 kB; 1 stay\n"
    assert bench.store.realisation(dead.key) is not None


def test_it_collects(cli, bench, paths) -> None:
    kept, dead = paths
    done = cli("gc")
    assert done.lines == [f"   2.0 kB  {bench.path(dead)}  (nothing keeps it alive)"]
    assert done.stderr == "removed 1 paths, 2.0 kB; 1 stay\n"
    assert bench.store.realisation(dead.key) is None
    assert bench.store.realisation(kept.key) == kept
    again = cli("gc")
    assert (again.stdout, again.exit_code) == ("", 0)


def test_json(cli, bench, paths) -> None:
    _kept, dead = paths
    rows = [json.loads(line) for line in cli("gc", "--json", "--dry-run").lines]
    assert rows[0] == {
        "path": str(bench.path(dead)), "key": dead.key.hex, "removed": True, "freed": 2000,
        "reason": "nothing keeps it alive",
    }  # fmt: skip
    assert rows[-1] == {"removed": 1, "kept": 1, "freed": 2000, "attempts": 0, "short": 0, "dry_run": True}


def test_room_that_cannot_be_made(cli, paths) -> None:
    done = cli("gc", "--max-size", "5B")
    assert done.exit_code == 4
    assert "environment/not-enough-garbage" in done.stderr
    assert len(done.lines) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-size", "much"), ("--min-free", "-1"), ("--older-than", "30 moons"), ("--max-size", "1d")],
)
def test_quantities_that_are_none(cli, bench, option: str, value: str) -> None:
    done = cli("gc", option, value)
    assert done.exit_code == 2
    assert "write it as in" in done.stderr


def test_a_root_that_cannot_be_read(cli, bench, paths) -> None:
    (bench.store.root / "roots" / "bad").write_text("{")
    stopped = cli("gc")
    assert stopped.exit_code == 6
    assert f"{bench.store.root}/roots/bad" in stopped.stderr
    assert cli("root", "remove", f"{bench.store.root}/roots/bad").exit_code == 0
    assert cli("gc").exit_code == 0


def test_no_store(cli) -> None:
    assert "environment/store-missing" in cli("gc").stderr


def test_roots_are_listed_added_and_removed(cli, bench, paths, tmp_path) -> None:
    kept, dead = paths
    assert cli("root", "add", tmp_path / "other", dead.key.base32[:8]).exit_code == 0
    assert cli("root", "list").lines == [
        f"{tmp_path}/other  {dead.key.base32}",
        f"{tmp_path}/result  {kept.key.base32}",
    ]
    assert cli("root", "remove", tmp_path / "other", tmp_path / "result").exit_code == 0
    assert not os.path.lexists(tmp_path / "other")
    assert cli("root", "list").stdout == ""
    again = cli("root", "remove", tmp_path / "other")
    assert again.exit_code == 2
    assert "usage/no-root" in again.stderr
    assert len(cli("gc").lines) == 2


def test_a_link_deleted_by_hand_is_shown_as_such(cli, paths, tmp_path) -> None:
    (tmp_path / "result").unlink()
    (line,) = cli("root", "list").lines
    assert line.endswith("(the link is gone or moved on)")
    (row,) = [json.loads(line) for line in cli("root", "list", "--json").lines]
    assert row == {"link": f"{tmp_path}/result", "key": key_of("kept").hex, "current": False}
