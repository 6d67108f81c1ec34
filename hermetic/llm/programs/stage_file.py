"""What the sandbox tells a program, and how a program says that it failed. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


class Refused(Exception):  # noqa: N818  # reads as what happened
    """The stage cannot be built, for a reason that its author can act on. The message is all that is shown."""


@dataclass(frozen=True)
class StageFile:
    """``/build/stage.json``: the name, the parameters in full, the folder of each input, and where the result goes."""

    name: str
    parameters: dict[str, Any]
    inputs: dict[str, Path]
    out: Path

    def input(self, role: str) -> Path:
        if role not in self.inputs:
            raise Refused(f"the stage {self.name!r} has no input {role!r}")
        return self.inputs[role]


def read_stage(path: str) -> StageFile:
    with open(path, encoding="utf-8") as stream:
        data = json.load(stream)
    inputs = {role: Path(place) for role, place in data["inputs"].items()}
    return StageFile(data["name"], data["parameters"], inputs, Path(data["out"]))


def run(build: Callable[[StageFile], None]) -> NoReturn:
    """Run `build` for ``/build/stage.json`` (or the file named by the first argument) and leave the process.

    `Refused` becomes one line on stderr and exit status 1. Any other exception is a fault of ours and keeps its trace.
    """
    os.umask(0o022)
    os.environ.setdefault("HWLOC_HIDE_ERRORS", "2")  # OpenVINO's threads ask for /sys, which a sandbox has not
    path = sys.argv[1] if len(sys.argv) > 1 else "/build/stage.json"
    try:
        build(read_stage(path))
    except Refused as refusal:
        sys.stdout.flush()
        sys.exit(f"error: {refusal}")
    sys.exit(0)


def say(text: str) -> None:
    """A line of progress for the build's log."""
    print(text, flush=True)  # noqa: T201


def read_json(path: Path) -> Any:
    """The value in `path`. Raises `Refused` if there is none, or a key occurs twice."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except FileNotFoundError:
        raise Refused(f"{path.name} is missing") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise Refused(f"{path.name} is not valid JSON: {error}") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``object_pairs_hook``: JSON with the same key twice means different things to different readers."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"key given twice: {', '.join(twice)}")
    return found


def write_json(path: Path, value: object) -> None:
    """Sorted keys and a final newline, so that equal values are equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
