"""The bench's own arithmetic; what it measures is not for tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.rows import Row, failures, table, timed_row, write
from bench.timing import Command, Failed, Sample, interleaved, once


def test_a_row_is_the_median_with_its_range_and_the_largest_peak() -> None:
    samples = [Sample(0.003, 10), Sample(0.001, 30), Sample(0.002, 20)]
    row = timed_row("f", "w", samples, unit="ms", limit=2.0)
    assert (row.value, row.spread, row.peak_mb, row.runs) == (2.0, (1.0, 3.0), 30, 3)
    assert row.holds


def test_a_limit_missed_and_a_value_that_could_not_be_had_are_failures() -> None:
    rows = [Row("a", "at the limit", 2, "s", limit=2), Row("b", "over", 2.1, "s", limit=2), Row("c", "none", None, "")]
    assert [row.figure for row in failures(rows)] == ["b", "c"]
    assert "2.1 s" in table(rows)
    assert table(rows).count("MISSED") == 1


def test_a_floor_must_be_reached() -> None:
    rows = [Row("a", "reached", 15, "x", floor=15), Row("b", "not reached", 14.9, "x", floor=15)]
    assert [row.figure for row in failures(rows)] == ["b"]
    assert "≥ 15 x MISSED" in table(rows)


def test_samples_are_taken_in_turn_after_one_to_warm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {name: Command(["sh", "-c", f"echo {name} >> {log}"]) for name in "ab"}
    assert {name: len(taken) for name, taken in interleaved(commands, 2).items()} == {"a": 2, "b": 2}
    assert log.read_text().split() == ["a", "b"] * 3


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(Failed, match="exited 3: because"):
        once(Command([sys.executable, "-c", "print('because'); raise SystemExit(3)"]))


def test_the_json_is_json(tmp_path: Path) -> None:
    write(tmp_path / "r" / "x.json", {"cpu": "any"}, [Row("c", "none", None, "")])
    text = (tmp_path / "r" / "x.json").read_text()
    assert json.loads(text)["rows"][0]["holds"] is False
