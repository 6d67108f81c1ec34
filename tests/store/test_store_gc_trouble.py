"""Collections on full and failing disks: nothing that stays is harmed, and the next one finishes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from store_checker import violations
from store_kit import Bench, fill, key_of, resolved_of
from test_store_trouble import failure, small_disk

from hermetic.errors import Domain, HermeticError
from hermetic.store import Store, Wishes

__all__ = ["small_disk"]


@pytest.fixture
def setting(bench: Bench, tmp_path: Path) -> Bench:
    for name in ("kept", "dead", "twin"):
        tree = {"same": b"s" * 1000, "own": name.encode(), "sub": {"file": name.encode()}}
        bench.make(tree, name, resolved=resolved_of(name))
    bench.store.add_root(tmp_path / "result", key_of("kept"))
    return bench


class Failing:
    """Makes the nth call that removes or moves something fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, nth: int) -> None:
        self.left = nth
        self.code = code
        for name in ("unlink", "rename", "rmdir"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code), str(arguments[0]))
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.ENOSPC, "store-full"), (errno.EDQUOT, "store-full"), (errno.EROFS, "store-read-only"), (errno.EIO, None)],
)
def test_whichever_call_fails_the_next_collection_finishes(
    setting: Bench, monkeypatch: pytest.MonkeyPatch, code: int, reason: str | None
) -> None:
    root = setting.store.root
    for nth in range(1, 200):
        with monkeypatch.context() as patch:
            failing = Failing(patch, code, nth)
            error = failure(setting.store.collect, Wishes())
        if isinstance(error, HermeticError):
            assert (error.domain, error.reason) == (Domain.ENVIRONMENT, reason)
        elif error is not None:
            assert (error.errno, reason) == (code, None)
        assert violations(root) == [], f"after call number {nth}"
        setting.store.collect(Wishes())
        assert violations(root, is_tidy=True) == [], f"after call number {nth}"
        assert [record.name for record in setting.store.records()] == ["kept"]
        if failing.left > 0:
            break
        for name in ("dead", "twin"):
            setting.make({"own": name.encode(), "same": b"s" * 1000}, name, resolved=resolved_of(name))
    assert nth > 15


def test_a_disk_that_fails_to_sync_loses_no_output(setting: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that may come back must find their outputs."""

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    before = sorted(os.listdir(setting.store.root / "store"))
    with monkeypatch.context() as patch:
        patch.setattr("hermetic.store.collecting.sync_file_system", fail)
        with pytest.raises(OSError, match="Input/output"):
            setting.store.collect(Wishes())
    assert sorted(os.listdir(setting.store.root / "store")) == before
    setting.store.collect(Wishes())
    assert violations(setting.store.root, is_tidy=True) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK])
def test_outputs_that_share_nothing_because_no_link_could_be_had(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        bench.make({"same": b"s" * 1000}, "one")
        bench.make({"same": b"s" * 1000}, "two")
    assert bench.store.collect(Wishes()).freed == 1000  # what it would be if they were links, as documented
    assert violations(bench.store.root, is_tidy=True) == []


def fill_up(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))


def test_room_can_be_made_on_a_disk_that_is_full(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench(Store.open(small_disk / "s"))
    bench.make({"small": b"fits"}, "kept")
    bench.store.add_root(tmp_path / "result", key_of("kept"))
    bench.make({"big": os.urandom(2 << 20)}, "big")
    with pytest.raises(OSError, match="No space"):
        fill_up(small_disk / "rest")
    source = fill(tmp_path / "source", {"new": os.urandom(1 << 20)})
    with pytest.raises(HermeticError) as caught, bench.store.begin() as run:
        run.ingest(source, key=key_of("new"), name="new", preimage={}, resolved=None)
    assert caught.value.reason == "store-full"
    done = bench.store.collect(Wishes(min_free=1 << 20))
    assert (done.short, [fate.path.name[33:] for fate in done.removed]) == (0, ["big"])
    assert bench.make({"new": os.urandom(1 << 20)}, "new").size == 1 << 20
    assert violations(small_disk / "s") == []
