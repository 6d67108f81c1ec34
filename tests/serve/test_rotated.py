"""Logs that are put aside by size: nothing is lost or torn, whoever else writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermetic.llm.policy import Events, Redaction
from hermetic.serve import rotated
from hermetic.serve.policy.events import ALERT, PUBLISHED, EventLog
from hermetic.serve.policy.redaction import Redactor
from hermetic.serve.rotated import Rotated

WRITER = """
import sys
from hermetic.serve.rotated import Rotated
log = Rotated(sys.argv[1], 2000, 100)
for number in range(400):
    log.append_line(f"{sys.argv[2]} {number} " + "x" * 60)
"""


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_oldest_goes(tmp_path: Path) -> None:
    log = Rotated(str(tmp_path / "made" / "log"), 10, 2)
    for number in range(5):
        log.append_line(f"line {number}")
    assert texts(tmp_path / "made") == {"log": "line 4\n", "log.1": "line 3\n", "log.2": "line 2\n"}
    assert b"".join(log.newest_first()) == b"line 4\nline 3\nline 2\n"
    assert b"|".join(log.newest_first(9)) == b"line 4\n|3\n"
    assert (tmp_path / "made" / "log").stat().st_mode & 0o777 == 0o600


def test_a_line_longer_than_a_file_may_be_is_whole(tmp_path: Path) -> None:
    log = Rotated(str(tmp_path / "log"), 10, 1)
    log.append_line("a" * 30)
    log.append_line("b")
    assert texts(tmp_path) == {"log.1": "a" * 30 + "\n", "log": "b\n"}


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"event": "llm_')
    Rotated(str(tmp_path / "log"), 1000, 1).append_line("whole")
    assert (tmp_path / "log").read_text().splitlines() == ['{"event": "llm_', "whole"]


def test_processes_that_write_the_same_file(tmp_path: Path) -> None:
    """Files so small that all of them are always about to put one aside."""
    path = str(tmp_path / "log")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "abc"]
    assert [one.wait() for one in writers] == [0, 0, 0]
    lines = [line for text in texts(tmp_path).values() for line in text.splitlines()]
    assert sorted(lines) == sorted(f"{name} {number} {'x' * 60}" for name in "abc" for number in range(400))
    assert len(texts(tmp_path)) > 10


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_kill_while_files_are_put_aside_loses_nothing(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Rotated(str(tmp_path / "log"), 10, 4)
    for number in range(3):
        log.append_line(f"line {number}")
    left, rename = [steps], os.rename

    def killed(old: str, new: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(rotated.os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            log.append_line("line 3")
    log.append_line("line 4")
    assert sorted("".join(texts(tmp_path).values()).split("\n")) == ["", *(f"line {n}" for n in (0, 1, 2, 4))]
    assert b"".join(log.newest_first()).startswith(b"line 4\nline 2\n")


def test_events_are_found_in_older_files(tmp_path: Path) -> None:
    """An engine that was published before a flood of alerts stays published."""
    kept = Events(file_mb=1, files=2)
    log = EventLog(str(tmp_path / "events.jsonl"), Redactor(Redaction()), tell=lambda _: None, kept=kept)
    log.write(PUBLISHED, engine_hash="blake3:e")
    alert = log.write(ALERT, message="x" * 700_000)
    newest = log.write(ALERT, message="x" * 700_000)
    assert sorted(texts(tmp_path)) == ["events.jsonl", "events.jsonl.1"]
    assert [one["engine_hash"] for one in log.all([PUBLISHED])] == ["blake3:e"]
    assert list(log.all([ALERT])) == [newest, alert]
    assert json.loads(Path(log.path).read_text()) == newest
