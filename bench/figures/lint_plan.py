"""``lint``, ``plan`` and ``plan --commands`` of Qwen3-32B, where there is no network: under a second."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Iterator

from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, Sample, once

RECIPE = "recipes/qwen3.py"
RUNS = 10
LIMIT = 1.0  # seconds
#: Starts a command where no address can be reached, not even this machine's own.
_OFFLINE = ("unshare", "--user", "--map-current-user", "--net")


def measure(place: Place) -> Iterator[Row]:
    offline = subprocess.run([*_OFFLINE, "true"], capture_output=True, check=False).returncode == 0
    recipe = str(place.repository / RECIPE)
    note = "no network" if offline else "with a network: no namespaces for this user"
    commands = {
        "hermetic lint": place.hermetic("lint", recipe),
        "hermetic plan": place.hermetic("plan", recipe),
        "hermetic plan --commands": place.hermetic("plan", recipe, "--commands"),
    }
    for name, command in commands.items():
        asked = _offline(command) if offline else command
        first = [_first(place, asked) for _ in range(RUNS)]
        again = [once(asked) for _ in range(RUNS)]
        yield timed_row("lint_plan", f"{name}, Qwen3-32B, first", first, limit=LIMIT, note=note)
        yield timed_row("lint_plan", f"{name}, Qwen3-32B, again", again, limit=LIMIT, note=note)


def _offline(command: Command) -> Command:
    return dataclasses.replace(command, arguments=[*_OFFLINE, *command.arguments])


def _first(place: Place, command: Command) -> Sample:
    """Without anything that an earlier run has remembered."""
    shutil.rmtree(place.folder / "home" / "cache", ignore_errors=True)
    return once(command)
