import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """\
from hermetic import Host, Script, Source, Stage, param
env = Host(paths=({busybox!r},))
"""


@pytest.fixture(scope="session")
def busybox() -> str:
    """A shell that is one file, so that a `Host` needs nothing else."""
    found = shutil.which("busybox", path=os.environ["PATH"] + ":/bin:/usr/bin")
    if found is None:
        pytest.skip("needs a static busybox (Debian: busybox-static)")
    return os.path.realpath(found)


@pytest.fixture
def recipe(tmp_path: Path, busybox: str) -> Callable[..., str]:
    """Write a recipe and its shell programs; returns the recipe's name, relative to `tmp_path`."""

    def write(text: str, **programs: str) -> str:
        for name, body in programs.items():
            program = tmp_path / f"{name}.sh"
            program.write_text(f"#!{busybox} sh\nalias sh={busybox}\nB={busybox}\n" + textwrap.dedent(body))
            program.chmod(0o755)
        (tmp_path / "recipe.py").write_text(HEAD.format(busybox=busybox) + textwrap.dedent(text))
        return "recipe.py"

    return write
