"""`hermetic shell`: commands and shells exactly where a stage runs, in a pseudo-terminal too."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

TEXT = 'a = Script("a.sh", environment=env)\nb = Script("b.sh", inputs={"a": a}, environment=env)'
PROGRAMS = {"a": "echo made > /build/out/a", "b": "$B cat /build/in/a/a > /build/out/b; exit 1"}


def run(arguments: list[str], typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hermetic", *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def stage(recipe, tmp_path, monkeypatch, store_root) -> str:
    """A stage that fails, and needs one that does not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("HERMETIC_STORE", str(store_root))
    name = recipe(TEXT, **PROGRAMS)
    monkeypatch.chdir(tmp_path)
    return f"{name}#b"


class TestCommand:
    def test_it_runs_with_the_stage_s_inputs_in_place_and_its_status_is_ours(self, stage, busybox) -> None:
        result = run(["shell", stage, "--", busybox, "sh", "-c", "cat /build/in/a/a; exit 7"])
        assert (result.returncode, result.stdout) == (7, "made\n")

    def test_it_reads_what_is_piped_in(self, stage, busybox) -> None:
        assert run(["shell", stage, "--", busybox, "cat"], "hello").stdout == "hello"

    def test_it_leaves_neither_an_output_nor_a_workspace(self, stage, busybox, store_root) -> None:
        run(["shell", stage, "--", busybox, "touch", "/build/out/x"])
        assert not list((store_root / "store").glob("*-b"))
        assert not list((store_root / "tmp").iterdir())

    def test_there_is_no_network_and_the_inputs_are_read_only(self, stage, busybox) -> None:
        script = "ls /sys/class/net 2>/dev/null; echo x > /build/in/a/a"
        result = run(["shell", stage, "--", busybox, "sh", "-c", script])
        assert result.returncode != 0
        assert "Read-only" in result.stderr

    def test_a_shell_without_a_terminal_takes_a_script(self, stage) -> None:
        result = run(["shell", stage], "cat /build/in/a/a\nexit 3\n")
        assert (result.returncode, result.stdout) == (3, "made\n")
        assert "it would run: /build/program/b.sh" in result.stderr


class TestFailed:
    def test_it_opens_the_kept_workspace_and_leaves_it(self, stage, busybox) -> None:
        assert run(["realise", stage, "--keep-failed"]).returncode == 100
        command = ["shell", stage, "--failed", "--", busybox, "sh", "-c", "cat /build/out/b; echo more > /build/out/c"]
        assert run(command).stdout == "made\n"
        assert run(["shell", stage, "--failed", "--", busybox, "cat", "/build/out/c"]).stdout == "more\n"

    def test_without_one_it_says_how_to_get_one(self, stage, busybox) -> None:
        assert run(["realise", stage]).returncode == 100
        result = run(["shell", stage, "--failed", "--", busybox, "true"])
        assert result.returncode == 2
        assert "usage/no-failed-workspace" in result.stderr
        assert "--keep-failed" in result.stderr


class Terminal:
    """The command on a real pseudo-terminal, as its user sees it."""

    def __init__(self, arguments: list[str]) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "hermetic", *arguments])
        termios.tcsetwinsize(self.screen, (41, 97))
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until `text` has been shown."""
        while text not in self.seen:
            self.seen += os.read(self.screen, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class TestTerminal:
    def test_ctrl_c_reaches_the_program_and_not_the_driver(self, stage) -> None:
        screen = Terminal(["shell", stage])
        screen.until("it would run")
        # It spins: a shell that was about to wait in `read` when the signal came would run its trap after the wait.
        spin = "trap 'echo cau''ght; exit' INT; echo wai''ting; while :; do :; done"
        screen.type(f"test -t 0 && echo ter''minal; sh -c \"{spin}\"\n")
        screen.until("terminal")
        screen.until("waiting")
        screen.type("\x03")
        screen.until("caught")
        screen.type("stty size; exit 5\n")
        screen.until("41 97")
        assert screen.status() == 5
