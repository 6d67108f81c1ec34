"""Write the locks again from their ``.in`` files: ``python hermetic/llm/locks/update.py [--check]``. Needs uv.

A lock has exact versions and the hashes of all their files, for CPython 3.11 to 3.13, and no address. With
``--check`` nothing is written; it is only checked that every entry of the committed locks still has a wheel for each
of these interpreters on x86-64 Linux. Names after it are the locks to look at; none means all.

Indexes are those of `hermetic.fetch.indexes`: the user's uv or pip configuration. What an index offers for other
interpreters is what gets into the lock, so `models-cpu.txt` is as wide as the place that its torch came from.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # where hermetic is not installed
from hermetic.fetch.indexes import find_indexes

HERE = Path(__file__).parent
UV = (sys.executable, "-m", "uv")
PYTHONS = ("3.11", "3.12", "3.13")
#: The oldest system the locks are for: Debian 12 and Ubuntu 22.04 both have a newer glibc.
PLATFORM = "x86_64-manylinux_2_35"
#: Locks that are for fewer interpreters: of torch's CPU build, the wheel for CPython 3.11 is the one at hand.
#: numpy 1.26, which Triton's python backend needs, ends at CPython 3.12.
FEWER = {"models-cpu": ("3.11",), "triton-openvino": ("3.11", "3.12")}
#: Lists of what locks leave out, by what their names begin with.
EXCLUDED = {"models": "models.excluded.txt", "triton": "triton.excluded.txt"}


def main() -> None:
    check, asked = "--check" in sys.argv[1:], {name for name in sys.argv[1:] if name != "--check"}
    for source in sorted(HERE.glob("*.in")):
        if asked and source.stem not in asked:
            continue
        lock, pythons = source.with_suffix(".txt"), FEWER.get(source.stem, PYTHONS)
        if not check:
            _compile(source, lock)
        for python in pythons:
            _check(lock, python)
        print(f"{lock.name}: wheels for {', '.join(pythons)}")  # noqa: T201


def _sources() -> list[str]:
    return ["--index-strategy", "unsafe-best-match", *find_indexes({}, os.environ).arguments]


def _compile(source: Path, lock: Path) -> None:
    options = ["--universal", "--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--upgrade"]
    command = [*UV, "pip", "compile", source.name, "--output-file", str(lock), "--python-version", PYTHONS[0]]
    excluded = EXCLUDED.get(source.stem.partition("-")[0], "excluded.txt")
    subprocess.run([*command, *options, *_sources(), "--excludes", excluded], cwd=HERE, check=True)


def _check(lock: Path, python: str) -> None:
    """Let uv choose a wheel for every entry; it fails, naming the entry, where there is none."""
    options = ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--quiet", "--dry-run"]
    with tempfile.TemporaryDirectory() as target:
        command = [*UV, "pip", "install", "--target", target, "--python-version", python, "--python-platform"]
        subprocess.run([*command, PLATFORM, *options, *_sources(), "-r", str(lock)], check=True)


if __name__ == "__main__":
    main()
