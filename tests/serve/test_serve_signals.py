"""SIGHUP: what is read again, and what is kept if that is no good."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hermetic.cli.serve_proxy import rereading
from hermetic.serve import launch_signals
from hermetic.serve.launch_signals import Stopping, stopping
from hermetic.serve.openai.gate import Keys
from hermetic.serve.openai.hooks import NoHooks


def test_sighup_asks_to_read_again_and_ends_nothing() -> None:
    async def main() -> bool:
        with stopping() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            await stop.again.wait()
            return stop.told.is_set()

    assert asyncio.run(main()) is False


@pytest.mark.parametrize(("before", "now", "ends"), [(True, False, True), (True, True, False), (False, False, False)])
def test_a_terminal_that_was_closed_ends_it(before: bool, now: bool, ends: bool) -> None:
    async def main() -> tuple[bool, bool]:
        terminal = [before]
        state = Stopping(asyncio.current_task(), lambda: terminal[0])  # type: ignore[arg-type]  # there is one
        state.gentle, terminal[0] = True, now
        state.hang_up()
        return state.told.is_set(), state.again.is_set()

    assert asyncio.run(main()) == (ends, not ends)


def test_nohup_keeps_it_from_hearing_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    assert launch_signals._has_terminal() is False


def test_keys_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without keys would let everybody in: the old ones stay."""
    file = tmp_path / "keys"
    proxy: Any = SimpleNamespace(hooks=NoHooks(), keys=Keys(["old"]), keys_problem="")

    async def read(text: str) -> None:
        file.write_text(text)
        told, said = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr("hermetic.cli.console.note", lambda _: said.set())
        told.set()
        task = asyncio.ensure_future(rereading(proxy, file, told))
        await said.wait()
        task.cancel()

    asyncio.run(read("\n"))
    assert proxy.keys_problem == f"keys-rejected: the keys stay as they were: {file} has no key"
    assert proxy.keys.know("Bearer old")
    asyncio.run(read("new newer\n"))
    assert proxy.keys_problem == ""
    assert [proxy.keys.know(f"Bearer {key}") for key in ("old", "new", "newer")] == [False, True, True]
