"""One file at an address. The stand-in Hub serves its files to anybody who asks by path."""

from pathlib import Path

import hub_kit as kit
import pytest

from hermetic.fetch.fixed import resolve
from hermetic.testing.hub import Fault, Hub

CONTENT = kit.safetensors(kit.MEGABYTE)


@pytest.fixture
def address(hub: Hub) -> str:
    hub.repository("acme/tiny").commit({"a.bin": CONTENT})
    return f"{hub.endpoint}/acme/tiny/resolve/main/a.bin"


def test_locked_once_and_fetched_by_hash(hub: Hub, address: str, tmp_path: Path) -> None:
    hub.fault(Fault("/storage/", cut=1000))
    hub.fault(Fault("/resolve/", status=503, headers={"Retry-After": "0"}))
    item = kit.locked(address, check=False)
    assert item.name == "a.bin"
    assert kit.fetch(item, tmp_path) == {"a.bin": CONTENT}
    hub.repositories["model", "acme/tiny"].commit({"a.bin": CONTENT + b"moved"})
    assert kit.reason(lambda: kit.fetch(item, tmp_path / "2")) == "hash/file-mismatch"
    assert resolve([kit.output(address)], item.entry) == item.entry


def test_it_goes_on_at_the_cut_byte(hub: Hub, address: str, tmp_path: Path) -> None:
    item = kit.locked(address, check=False)
    before = len(hub.bodies())
    hub.fault(Fault("/storage/", cut=300_001))
    assert kit.fetch(item, tmp_path) == {"a.bin": CONTENT}
    assert [(body.start, body.sent) for body in hub.bodies()[before:]] == [
        (0, 300_001),
        (300_001, len(CONTENT) - 300_001),
    ]


def test_refusals(hub: Hub, address: str) -> None:
    assert kit.reason(lambda: kit.locked(address + "x")) == "environment/origin-no-file"
    assert kit.reason(lambda: kit.locked("http://models.example.com/a")) == "trust/plain-http"
    hub.repository("acme/gated", gated=True).commit({"a": b"1"})
    assert kit.reason(lambda: kit.locked(f"{hub.endpoint}/acme/gated/resolve/main/a")) == "environment/origin-denied"
