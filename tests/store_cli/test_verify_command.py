"""``hermetic verify --repair`` and ``hermetic du``, as people meet them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from store_kit import ENGINE, Bench, key_of

from hermetic.store import Realisation


@pytest.fixture
def damaged(bench: Bench, tmp_path: Path) -> Realisation:
    record = bench.make(ENGINE)
    bench.make({"whole": b"data"}, "whole")
    bench.store.add_root(tmp_path / "result", record.key)
    path = bench.path(record) / "weights" / "rank1.engine"
    path.chmod(0o644)
    path.write_bytes(b"ftrt" + b"\2" * (5 << 20))
    path.chmod(0o444)
    os.utime(path, (315_532_800, 315_532_800))
    return record


def test_repair_drops_says_so_and_is_done(cli, bench, damaged, tmp_path) -> None:
    found = cli("verify")
    assert found.exit_code == 6
    assert "--repair" in found.stderr
    done = cli("verify", "--repair")
    assert done.exit_code == 0, done.stderr
    path = bench.path(damaged)
    assert done.lines[0] == f"dropped  {path}  (must be realised again: rooted by {tmp_path}/result)"
    assert "weights/rank1.engine: has other contents than recorded" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "dropped 1 damaged paths; all else is whole; 1 of them are wanted: realise them again"
    )
    assert cli("verify").exit_code == 0
    again = cli("verify", "--repair")
    assert (again.stdout, again.stderr) == ("", "everything is whole; nothing was dropped\n")


def test_what_could_not_be_repaired_is_exit_code_6(cli, bench, damaged) -> None:
    with bench.store.begin() as run:
        run.lease([damaged.key])
        left = cli("verify", "--repair", bench.path(damaged))
    assert left.exit_code == 6
    assert left.lines == [f"left  {bench.path(damaged)}  (run {run.id} is using it)"]
    assert "store/not-repaired" in left.stderr


def test_repair_as_json(cli, bench, damaged) -> None:
    row = json.loads(cli("verify", "--repair", "--json", bench.path(damaged)).lines[0])
    assert (row["key"], row["dropped"], len(row["problems"])) == (damaged.key.hex, True, 1)


def test_du(cli, bench) -> None:
    one = bench.make({"same": b"s" * 1000, "a": b"a" * 10, "again": b"a" * 10}, "one")
    two = bench.make({"same": b"s" * 1000, "b": b"b" * 2000}, "two")
    done = cli("du")
    assert done.lines == [
        f"    3.0 kB    2.0 kB    1.0 kB  {bench.path(two)}",
        f"    1.0 kB      10 B    1.0 kB  {bench.path(one)}",
    ]
    assert done.stderr == "columns: in all, for itself alone, shared; all paths together: 3.0 kB\n"
    assert cli("du", "--shared", bench.path(one)).lines == [
        f"    1.0 kB      10 B    1.0 kB  {bench.path(one)}",
        f"                        1.0 kB    with {bench.path(two)}",
    ]
    rows = [json.loads(line) for line in cli("du", "--json", "--shared").lines]
    assert rows == [
        {"path": str(bench.path(two)), "key": key_of("two").hex, "size": 3000, "own": 2000, "shared": 1000,
         "with": {str(bench.path(one)): 1000}},
        {"path": str(bench.path(one)), "key": key_of("one").hex, "size": 1010, "own": 10, "shared": 1000,
         "with": {str(bench.path(two)): 1000}},
        {"total": 3010},
    ]  # fmt: skip
    assert "usage/unknown-path" in cli("du", "nowhere").stderr


def test_du_says_what_collecting_frees(cli, bench, tmp_path) -> None:
    one = bench.make({"same": b"s" * 1000, "a": b"a" * 10}, "one")
    bench.make({"same": b"s" * 1000}, "two")
    bench.store.add_root(tmp_path / "result", key_of("two"))
    own = json.loads(cli("du", "--json", bench.path(one)).stdout)["own"]
    assert json.loads(cli("gc", "--json").lines[0])["freed"] == own == 10
