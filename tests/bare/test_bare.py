"""The README's run command where nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for debootstrap and pivot_root")
needs_debootstrap = pytest.mark.skipif(not shutil.which("debootstrap"), reason="needs debootstrap")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@needs_root
@needs_debootstrap
def test_a_bare_machine_gets_to_a_store_path(tmp_path: Path, repository: Path) -> None:
    """Debian's smallest system: as root, then once more, then as an ordinary user (see `inside`)."""
    done = subprocess.run(
        [repository / "tests" / "bare" / "try"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "\n".join(line for line in done.stderr.splitlines() if line.startswith("bare: "))
    assert done.returncode == 0, done.stderr[-6000:]
    assert "PASSED" in said
