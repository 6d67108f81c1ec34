"""Python run in a process of its own with hermetic's library, for what no command line times alone."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from bench.place import Place
from bench.timing import Command, once

__all__ = ["run"]


def run(place: Place, program: str, *arguments: str) -> dict[str, Any]:
    """Run `program`; it prints one JSON object at its end, which is returned."""
    env = place.env() | {"PYTHONPATH": str(place.repository), "PATH": os.environ["PATH"]}
    said = once(Command([sys.executable, "-c", program, *arguments], cwd=place.below("cwd"), env=env)).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
