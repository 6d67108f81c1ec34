"""The stage programs as a test runs them: by hand, outside a sandbox, in an environment made from the wheel lock."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from hermetic.fetch.indexes import find_indexes

REPOSITORY = Path(__file__).resolve().parents[2]
LLM = REPOSITORY / "hermetic" / "llm"
sys.path.append(str(LLM / "programs"))  # the checks of checkpoints need NumPy only, and are tested in this process


@dataclass(frozen=True)
class Ran:
    """A program that has ended."""

    code: int
    out: Path
    stdout: str
    stderr: str
    peak_bytes: int


Build = Callable[..., Ran]


def environment_of(lock: str) -> Path:
    """The Python of a virtual environment with exactly the wheels of `lock`, made once for each content of it."""
    text = (LLM / "locks" / lock).read_bytes()
    name = f"{Path(lock).stem}-{sys.version_info[0]}.{sys.version_info[1]}-{hashlib.sha256(text).hexdigest()[:12]}"
    folder = REPOSITORY / ".cache" / "tests" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv"]
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            python = folder / "bin" / "python"
            subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
            install = [*uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes"]
            install += ["--index-strategy", "unsafe-best-match", *find_indexes({}, os.environ).arguments]
            subprocess.run([*install, "-r", str(LLM / "locks" / lock)], check=True)
            (folder / "complete").touch()
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def pythons() -> dict[str, Path]:
    """An interpreter for each lock, by its name without ``.txt``."""
    return {name: environment_of(f"{name}.txt") for name in ("openvino-build", "openvino-run")}


_RUNS_IN_RUN = ("openvino_smoke.py", "openvino_manifest.py", "openvino_chat.py")


@pytest.fixture
def build(pythons: dict[str, Path], tmp_path: Path) -> Build:
    """Run a program: ``build("checkpoint.py", "out", {...parameters}, model=path)``. Nothing of ours leaks into it."""

    def run(program: str, name: str, parameters: dict[str, Any], *, check: bool = True, **inputs: Path) -> Ran:
        out = tmp_path / name
        for folder in (out, tmp_path / "home", tmp_path / "tmp"):
            folder.mkdir(exist_ok=True)
        stage = tmp_path / f"{name}.json"
        places = {role: str(path) for role, path in inputs.items()}
        stage.write_text(json.dumps({"name": name, "parameters": parameters, "inputs": places, "out": str(out)}))
        python = pythons["openvino-run" if program in _RUNS_IN_RUN else "openvino-build"]
        command = [str(python), "-P", "-B", str(LLM / "programs" / program), str(stage)]
        variables = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin"}
        ran = _run(command, variables, tmp_path / "tmp", out)
        assert not any((tmp_path / "home").iterdir()), "the program wrote to its home"
        assert not any((tmp_path / "tmp").iterdir()), "the program left temporary files"
        assert ran.code == 0 or not check, ran.stderr
        return ran

    return run


#: Stands between, because a process counts the memory of the one that forked it as its own peak.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as stream:
    stream.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def _run(command: list[str], variables: dict[str, str], cwd: Path, out: Path) -> Ran:
    peak = out.with_suffix(".peak")
    measured = [sys.executable, "-I", "-S", "-c", _MEASURE, str(peak), *command]
    ran = subprocess.run(measured, env=variables, cwd=cwd, capture_output=True, check=False)
    texts = [text.decode("utf-8", "replace") for text in (ran.stdout, ran.stderr)]
    return Ran(ran.returncode, out, *texts, int(peak.read_text()) * 1024)


QUANTISE: dict[str, Any] = {
    "mode": "int4_sym",
    "group_size": 32,
    "ratio": "1.0",
    "awq": False,
    "scale_estimation": False,
    "gptq": False,
    "samples": 16,
    "length": 64,
}
SMOKE: dict[str, Any] = {
    "prompts": ["What is hermetic?"],
    "golden": {},
    "max_new_tokens": 24,
    "positions": 48,
    "tolerance": "0.001",
    "original_tolerance": "1.0",
    "allow_nonsense": True,
}


def digest(folder: Path) -> str:
    """One hash over the names and bytes of every file below `folder`."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}\0{path.stat().st_mode:o}\0".encode())
        if path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()
