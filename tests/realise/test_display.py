"""What people see, from events alone: no clock, no terminal."""

import io
import sys

import pytest

from hermetic.realise.display import Plain, Row, State, describe, human_bytes, human_time
from hermetic.realise.events import Event
from hermetic.realise.output import Lines


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_436_000, "1.4 MB"), (20e9, "20.0 GB"), (3e12, "3.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4s"), (43.4, "43s"), (725, "12m05s"), (11_220, "3h07m"), (59.6, "60s")]
)
def test_times(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_bytes_rate_and_time_left() -> None:
    row = Row("weights", "preparing", started=100.0, done=50_000_000, total=200_000_000, what="wheels")
    assert describe(row, 110.0, None) == "preparing  wheels  50.0 MB of 200.0 MB  5.0 MB/s  30s left  10s"


def test_time_left_from_the_last_time() -> None:
    row = Row("engine", "building", started=100.0)
    assert describe(row, 110.0, 40.0) == "building  10s  about 30s left"
    assert describe(row, 150.0, 40.0) == "building  50s"


def test_plain_lines_without_a_terminal(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    show = Plain(State())
    steps = [{"stage": "a", "key": "1", "action": "build"}, {"stage": "b", "key": "2", "action": "build"}]
    show(Event("plan", data={"steps": steps}, at=0.0))
    show(Event("state", "a", "1", {"state": "preparing"}, at=1.0))
    show(Event("state", "a", "1", {"state": "building"}, at=2.0))
    show(Event("output", "a", "1", {"line": "words"}, at=3.0))
    show(Event("state", "a", "1", {"state": "failed", "reason": "stage-failed"}, at=4.0))
    show(Event("state", "b", "2", {"state": "skipped", "because": "a"}, at=4.0))
    assert stream.getvalue().splitlines() == [
        "▸ a  building  1.0s",
        "✘ a  failed  stage-failed",
        "- b  skipped  a",
    ]


def test_bytes_are_told_every_few_seconds_without_a_terminal(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    show = Plain(State())
    show(Event("plan", data={"steps": [{"stage": "a", "key": "1", "action": "build"}]}, at=0.0))
    show(Event("state", "a", "1", {"state": "preparing"}, at=100.0))
    for second in range(1, 13):
        show(Event("progress", "a", "1", {"what": "wheels", "done": second * 10**7}, at=100.0 + second))
    assert stream.getvalue().splitlines() == [
        "▸ a  preparing  wheels  50.0 MB  10.0 MB/s  5.0s",
        "▸ a  preparing  wheels  100.0 MB  10.0 MB/s  10s",
    ]


def test_output_is_cut_into_lines_also_by_carriage_returns() -> None:
    seen: list[str] = []
    lines = Lines(seen.append)
    for part in (b"on", b"e\ntwo\r", b"\xff\n", b"\n\nrest"):
        lines(part)
    assert seen == ["one", "two", "\ufffd"]
