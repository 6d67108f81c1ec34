"""Write the locks again from their ``.in`` files: ``python hermetic/llm/locks/update.py [--check]``. Needs uv.

A lock has exact versions and the hashes of all their files, for CPython 3.11 to 3.13, and no address. With
``--check`` nothing is written; it is only checked that every entry of the committed locks still has a wheel for each
of these interpreters on x86-64 Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
UV = (sys.executable, "-m", "uv")
PYTHONS = ("3.11", "3.12", "3.13")
#: The oldest system the locks are for: Debian 12 and Ubuntu 22.04 both have a newer glibc.
PLATFORM = "x86_64-manylinux_2_35"


def main() -> None:
    for source in sorted(HERE.glob("*.in")):
        lock = source.with_suffix(".txt")
        if "--check" not in sys.argv[1:]:
            _compile(source, lock)
        for python in PYTHONS:
            _check(lock, python)
        print(f"{lock.name}: wheels for {', '.join(PYTHONS)}")  # noqa: T201


def _compile(source: Path, lock: Path) -> None:
    options = ["--universal", "--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--upgrade"]
    command = [*UV, "pip", "compile", source.name, "--output-file", str(lock), "--python-version", PYTHONS[0]]
    subprocess.run([*command, *options, "--excludes", "excluded.txt"], cwd=HERE, check=True)


def _check(lock: Path, python: str) -> None:
    """Let uv choose a wheel for every entry; it fails, naming the entry, where there is none."""
    options = ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--quiet", "--dry-run"]
    with tempfile.TemporaryDirectory() as target:
        command = [*UV, "pip", "install", "--target", target, "--python-version", python, "--python-platform"]
        subprocess.run([*command, PLATFORM, *options, "-r", str(lock)], check=True)


if __name__ == "__main__":
    main()
