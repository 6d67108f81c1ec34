"""The first realise on an empty store, downloads included, beside a plain install of the same wheels."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, once

LIMIT_S = 90.0  # on 2 cores


def measure(place: Place) -> Iterator[Row]:
    """The peer does less: it confines nothing, hashes no tree and builds no engine."""
    sample = once(place.hermetic("realise", place.recipe))
    yield timed_row("first", "hermetic realise, empty store", [sample], limit=LIMIT_S)
    for number, lock in enumerate(locks(place)):
        target = place.folder / f"wheels-{number}"
        yield timed_row(
            "first", f"uv pip install {lock.name}", [once(install(place, lock, target))], note="no stage run"
        )
        shutil.rmtree(target)


def locks(place: Place) -> list[Path]:
    """The wheel locks that the stage library ships."""
    return sorted((place.repository / "hermetic" / "llm" / "locks").glob("openvino-*.txt"))


def install(place: Place, lock: Path, target: Path) -> Command:
    program = os.path.join(os.path.dirname(sys.executable), "uv")
    options = [
        "--no-cache",
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--link-mode",
        "copy",
        "--quiet",
    ]
    python = ["--python", sys.executable, "--target", str(target)]
    return Command([program, "pip", "install", *options, *python, "--requirement", str(lock)], env=place.env())
