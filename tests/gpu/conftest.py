"""Machines with GPUs that are stand-ins: see `hermetic.testing.gpu`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from hermetic.sandbox import tools
from hermetic.sandbox.gpu import Device
from hermetic.testing.gpu import stand_in_gpus

HEAD = """\
from hermetic import Gpu, PythonEnv, Script
env = PythonEnv("empty.txt")
"""

LOOK = """\
import json, os
names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH")
seen = {name: os.environ[name] for name in names if name in os.environ}
seen["dev"] = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
seen["driver"] = sorted(os.listdir("/build/env/driver")) if os.path.isdir("/build/env/driver") else []
with open("/build/out/seen.json", "w") as stream:
    json.dump(seen, stream)
"""

Machine = Callable[..., dict[str, str]]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """``machine(H200())``: variables that make hermetic believe in these GPUs; ``inside=[...]`` is what CUDA finds."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")

    def make(*devices: Device, inside: list[Device] | None = None) -> dict[str, str]:
        return stand_in_gpus(tmp_path / "machine", devices, inside)

    return make


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Writes a recipe with ``env`` and the programs given by name; returns its name."""
    tools.available()

    def write(text: str, **programs: str) -> str:
        (tmp_path / "empty.txt").touch()
        for name, body in {"look": LOOK, **programs}.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(body))
        (tmp_path / "recipe.py").write_text(HEAD + textwrap.dedent(text))
        return "recipe.py"

    return write
