"""What every test stands on: a home and a store of its own, the real command, golden files.

The first thing a session does is to move HOME, the XDG folders and HERMETIC_STORE into a temporary folder, in this
process and so in every one that a test starts. The last thing it does is to look whether the real home was touched.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# What hermetic or the libraries of its stages would leave in a home. openvino-telemetry writes `intel` even with HOME
# unset, because it asks the password database.
_TRACES = (".local/share/hermetic", ".cache/hermetic", ".config/hermetic", ".local/state/hermetic", "intel")
_MOVED = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_SESSION = pytest.StashKey["_Isolation"]()


class _Isolation:
    """The environment of a test session, and what it found in the real home before."""

    def __init__(self) -> None:
        self._home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        self._before = self._traces()
        self._saved = dict(os.environ)
        self._folder = tempfile.TemporaryDirectory(prefix="hermetic-", ignore_cleanup_errors=True)

    def enter(self) -> None:
        root = Path(self._folder.name)
        for name in [name for name in os.environ if name.startswith("HERMETIC_")]:
            del os.environ[name]
        os.environ["HOME"] = str(root / "home")
        for name in _MOVED:
            os.environ[name] = str(root / "home" / name.lower())
        os.environ["HERMETIC_STORE"] = str(root / "store")
        (root / "home").mkdir()

    def leave(self) -> list[str]:
        """Puts the environment back; returns what changed in the real home meanwhile."""
        os.environ.clear()
        os.environ.update(self._saved)
        _make_writable(self._folder.name)
        self._folder.cleanup()
        after = self._traces()
        return [str(self._home / name) for name in _TRACES if after[name] != self._before[name]]

    def _traces(self) -> dict[str, tuple[int, ...]]:
        return {name: _times(self._home / name) for name in _TRACES}


def _times(folder: Path) -> tuple[int, ...]:
    try:
        return (folder.lstat().st_mtime_ns, *sorted(child.lstat().st_mtime_ns for child in folder.iterdir()))
    except OSError:
        return ()


def _make_writable(folder: str) -> None:
    """Store paths are read-only folders, which only root could remove as they are."""
    for parent, names, _files in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write golden files anew instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SESSION] = _Isolation()
    config.stash[_SESSION].enter()


def pytest_unconfigure(config: pytest.Config) -> None:
    changed = config.stash[_SESSION].leave()
    if not changed:
        return
    message = "the real home was touched while the tests ran: " + ", ".join(changed)
    if os.environ.get("CI"):
        raise pytest.UsageError(message)
    # Where people work, it may have been theirs to touch.
    sys.stderr.write(f"\nWARNING: {message}; by them, if no other hermetic ran here\n")


class Golden(Protocol):
    def __call__(self, name: str, actual: str | bytes) -> None: ...


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """``golden("keys/tiny.json", text)`` compares with ``tests/golden/keys/tiny.json``; ``--accept`` writes it."""

    def compare(name: str, actual: str | bytes) -> None:
        path = REPOSITORY / "tests" / "golden" / name
        data = actual.encode() if isinstance(actual, str) else actual
        if request.config.getoption("--accept"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        assert path.exists(), f"no golden file {name}; make it with --accept"
        assert data.decode("utf-8", "backslashreplace") == path.read_text("utf-8", "backslashreplace")

    return compare


@pytest.fixture
def store_root(tmp_path: Path) -> Path:
    """Where this test's store will be. Nothing is there yet."""
    return tmp_path / "store"


@dataclass(frozen=True)
class Result:
    """What one run of the command left."""

    stdout: str
    stderr: str
    exit_code: int

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class Cli(Protocol):
    def __call__(
        self,
        *args: str | os.PathLike[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Result: ...


@pytest.fixture
def cli(store_root: Path, tmp_path: Path) -> Cli:
    """The real command in a process of its own: ``cli("realise", recipe) -> Result``.

    It works in `tmp_path` with the store `store_root` unless `cwd` and `env` say otherwise.
    """

    def run(
        *args: str | os.PathLike[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "hermetic", *(os.fspath(arg) for arg in args)],
            cwd=cwd or tmp_path,
            env=_environment() | {"HERMETIC_STORE": str(store_root)} | dict(env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        return Result(done.stdout, done.stderr, done.returncode)

    return run


def _environment() -> dict[str, str]:
    """Ours, in which `hermetic` is the one of this checkout whatever is installed and wherever the test works."""
    return dict(os.environ) | {"PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY
