"""P2 and P8 after a power loss, on ext4, xfs and btrfs: the torture of `power_torture.py`, in short.

The controls take one piece of the store's care away, and the torture must find that out: so it can.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import power_machine as machine
import pytest

TORTURE = Path(machine.HERE) / "power_torture.py"


def torture(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, str(TORTURE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=machine.environment())
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["unexpected"] == [], f"{report}\n{done.stderr}"
    return report


@pytest.fixture(params=list(machine.KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    if reason := machine.lacking([request.param]):
        pytest.skip(reason)
    return request.param


def test_power_is_cut(kind: str, tmp_path: Path) -> None:
    report = torture("--seed", 1, "--rounds", 1, "--cuts", 6, "--kinds", kind, "--place", tmp_path)
    assert report["violations"] == []
    assert report["faults"] == {kind: 6}
    assert report["flushes"] > 0


@pytest.mark.slow
def test_power_is_cut_again_and_again(kind: str, tmp_path: Path) -> None:
    """So recoveries are cut off too."""
    report = torture("--seed", 20261124, "--rounds", 4, "--cuts", 8, "--kinds", kind, "--place", tmp_path)
    assert report["violations"] == []
    assert report["faults"] == {kind: 32}
    assert report["records"] > 0  # how many of them were broken is the machine's affair; the controls show that it sees


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["end-of-run-sync", "link-sync", "marker"])
def test_a_store_without_its_care_is_found_out(broken: str, tmp_path: Path) -> None:
    if reason := machine.lacking(["ext4"]):
        pytest.skip(reason)
    report = torture(
        "--seed",
        6,
        "--rounds",
        20,
        "--kinds",
        "ext4",
        "--broken",
        broken,
        "--actions",
        "build",
        "link",
        "--place",
        tmp_path,
    )
    assert report["violations"]
