"""systemd is told once a server is ready."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from hermetic.errors import HermeticError
from hermetic.serve.notify import tell_ready, tell_reloading


@pytest.mark.parametrize("shown", ["{}/notify", "@{}/notify"], ids=["path", "abstract"])
def test_it_is_told(shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = shown.format(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        tell_ready()
        assert systemd.recv(100) == b"READY=1"
        tell_reloading()
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", systemd.recv(100))


def test_nobody_who_did_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell_ready()


def test_a_socket_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with pytest.raises(HermeticError) as caught:
        tell_ready()
    assert (caught.value.domain.value, caught.value.reason) == ("environment", "notify-failed")
