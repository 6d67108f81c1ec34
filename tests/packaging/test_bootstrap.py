"""bootstrap.py: what it does and in which order, without a network; `slow` ones do it for real."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

PIP_CONFIGURATION = ("PIP_", "UV_", "SSL_", "REQUESTS_", "http", "HTTP", "no_proxy", "NO_PROXY")


class Recorder:
    """Stands for `run`: notes the steps, makes what they would make, fails at the one it is told."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.steps: list[str] = []
        self.fail_at = ""

    def __call__(self, command: list[str], failure: str) -> None:
        step = self.name(command)
        self.steps.append(step)
        if step == self.fail_at:
            raise self.module.Stop(failure)
        if step == "venv":
            os.makedirs(os.path.dirname(self.module.PYTHON))
            Path(self.module.PYTHON).touch()

    @staticmethod
    def name(command: list[str]) -> str:
        if "venv" in command:
            return "venv"
        if "--requirement" in command:
            return os.path.basename(command[-1])
        return "hermetic" if "--editable" in command else " ".join(command)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    (folder / "requirements").mkdir(parents=True)
    for name in ("bootstrap.py", "pyproject.toml", "requirements/base.txt", "requirements/dev.txt"):
        (folder / name).write_bytes((repository / name).read_bytes())
    return folder


@pytest.fixture
def bootstrap(checkout: Path) -> ModuleType:
    """The module of that checkout, on a system that lacks nothing."""
    spec = importlib.util.spec_from_file_location("bootstrap", checkout / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SYSTEM = module.FOR_TESTS = {}
    return module


@pytest.fixture
def steps(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(bootstrap)
    monkeypatch.setattr(bootstrap, "run", recorder)
    return recorder


ALL = ["venv", "base.txt", "hermetic"]


def test_set_up_happens_once(bootstrap: ModuleType, steps: Recorder) -> None:
    bootstrap.set_up("base")
    bootstrap.set_up("base")
    assert steps.steps == ALL


def test_the_development_lock_is_added_to_the_base_and_serves_both(bootstrap: ModuleType, steps: Recorder) -> None:
    bootstrap.set_up("base")
    bootstrap.set_up("dev")
    bootstrap.set_up("base")
    assert steps.steps == [*ALL, "dev.txt", "hermetic"]


@pytest.mark.parametrize("name", ["requirements/base.txt", "pyproject.toml"])
def test_a_changed_lock_makes_everything_anew(
    checkout: Path, bootstrap: ModuleType, steps: Recorder, name: str
) -> None:
    bootstrap.set_up("base")
    (checkout / ".venv" / "left over").write_text("by the first")
    with (checkout / name).open("a") as file:
        file.write("\n# changed\n")
    bootstrap.set_up("base")
    assert steps.steps == [*ALL, *ALL]
    assert not (checkout / ".venv" / "left over").exists()


@pytest.mark.parametrize("broken", ALL)
def test_what_stopped_half_way_is_made_anew(bootstrap: ModuleType, steps: Recorder, broken: str) -> None:
    steps.fail_at = broken
    with pytest.raises(bootstrap.Stop):
        bootstrap.set_up("base")
    steps.fail_at, steps.steps = "", []
    bootstrap.set_up("base")
    assert steps.steps == ALL


def test_an_interrupted_step_up_to_development_is_made_anew(bootstrap: ModuleType, steps: Recorder) -> None:
    bootstrap.set_up("base")
    steps.fail_at = "dev.txt"
    with pytest.raises(bootstrap.Stop):
        bootstrap.set_up("dev")
    steps.fail_at, steps.steps = "", []
    bootstrap.set_up("base")
    assert steps.steps == ALL


def test_two_at_once_set_up_once(
    bootstrap: ModuleType, steps: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one is held at the lock until the first is through, and then finds it done."""
    waiting = threading.Event()
    second = threading.Thread(target=bootstrap.set_up, args=("base",))

    def say(text: str) -> None:
        if "waiting" in text:
            waiting.set()

    def first(command: list[str], failure: str) -> None:
        if not second.ident:
            second.start()
            assert waiting.wait(60)
        steps(command, failure)

    monkeypatch.setattr(bootstrap, "say", say)
    monkeypatch.setattr(bootstrap, "run", first)
    bootstrap.set_up("base")
    second.join(60)
    assert steps.steps == ALL
    assert not capsys.readouterr().out


def test_an_environment_of_the_users_own_is_left_alone(checkout: Path, bootstrap: ModuleType, steps: Recorder) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").write_text("mine")
    with pytest.raises(bootstrap.Stop, match="was not made by bootstrap"):
        bootstrap.set_up("base")
    assert not steps.steps
    assert (checkout / ".venv" / "pyvenv.cfg").read_text() == "mine"


def lacking(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str]) -> None:
    monkeypatch.setattr(bootstrap, "SYSTEM", {"bubblewrap": lambda: False, "ca-certificates": lambda: True})
    monkeypatch.setattr(bootstrap, "find", programs.get)


def test_root_gets_the_missing_system_packages(
    bootstrap: ModuleType, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(bootstrap, monkeypatch, {"apt-get": "true"})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bootstrap.set_up("base")
    assert steps.steps[0].endswith("install --yes --no-install-recommends bubblewrap")
    assert steps.steps[1:] == ALL


def test_sudo_is_used_when_it_asks_nothing(
    bootstrap: ModuleType, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(bootstrap, monkeypatch, {"apt-get": "true", "sudo": "true"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    bootstrap.set_up("base")
    assert steps.steps[0].startswith("true -n env DEBIAN_FRONTEND=noninteractive")


@pytest.mark.parametrize("sudo", [{}, {"sudo": "false"}])
def test_without_root_the_command_is_named(
    bootstrap: ModuleType, steps: Recorder, monkeypatch: pytest.MonkeyPatch, sudo: dict[str, str]
) -> None:
    lacking(bootstrap, monkeypatch, {"apt-get": "true"} | sudo)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.Stop, match="sudo apt-get install --yes bubblewrap"):
        bootstrap.set_up("base")
    assert not steps.steps


def test_without_apt_the_packages_are_named(
    bootstrap: ModuleType, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(bootstrap, monkeypatch, {})
    with pytest.raises(bootstrap.Stop, match=r"bubblewrap.*no apt-get"):
        bootstrap.set_up("base")
    assert not steps.steps


def test_what_only_tests_need_is_no_condition(
    bootstrap: ModuleType, steps: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "FOR_TESTS", {"busybox-static": lambda: False})
    monkeypatch.setattr(bootstrap, "find", {}.get)
    bootstrap.set_up("dev")
    assert steps.steps == ["venv", "dev.txt", "hermetic"]
    assert "without busybox-static" in capsys.readouterr().err
    assert bootstrap.is_complete("dev")


def test_an_old_python_is_told_so(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    assert bootstrap.guarded([]) == 4
    assert "needs Python 3.11 or newer" in capsys.readouterr().err


def test_an_unknown_command_names_the_known(bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.guarded(["frobnicate"]) == 2
    printed = capsys.readouterr()
    assert "realise, hermetic, test, python" in printed.err
    assert not printed.out


def bare_environment() -> dict[str, str]:
    """No HOME; only what says where an index lies."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(PIP_CONFIGURATION)}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept}


SAY = ["python", "-c", "import hermetic, click; print(hermetic.__file__)"]


def launch(clone: Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, clone / "bootstrap.py", *SAY],
        cwd=cwd,
        env=bare_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_real_set_ups_at_once_after_one_was_killed(clone: Path, tmp_path: Path) -> None:
    with launch(clone, tmp_path) as killed:
        assert killed.stderr is not None
        assert any("Installing what" in line for line in killed.stderr)  # pip is about to run, or runs
        killed.kill()  # a pip lives on, and keeps the lock until it is done
    both = [launch(clone, tmp_path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
        assert out == f"{clone / 'hermetic' / '__init__.py'}\n"
    assert "Installing" not in launch(clone, tmp_path).communicate(timeout=60)[1]
    assert (clone / ".venv" / "bin" / "hermetic").exists()
