"""Folders of failed builds, downloads cut short and wrong bytes: there until somebody says so, or they are old."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from store_kit import Script

from hermetic.digest import Key
from hermetic.store import Store, Wishes

ABANDONED_MATRIX = ["gc.after-abandoned", "gc.after-abandoned#2"]
COLLECT = """\
from hermetic.store import Store, Wishes
Store.open(arguments[0]).collect(Wishes(failed=True))
"""


@pytest.fixture
def left(store: Store) -> dict[str, Path]:
    """One of each, three days old."""
    with store.begin() as run:
        place = run.workspace()
        (place.path / "out").mkdir()
        (place.path / "out" / "half").write_bytes(bytes(1000))
        place.close(keep=True)
    download = store.root / "tmp" / f"fetch-{Key('ab' * 32).base32}"
    wrong = store.root / "quarantine" / "0123456789abcdef-model.safetensors"
    for path, size in ((download / "part", 500), (wrong, 70)):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    for path in (Path(f"{place.path}.kept"), download / "part", wrong):
        os.utime(path, (path.stat().st_mtime - 3 * 86400,) * 2)
    return {"workspace": place.path, "download": download, "wrong": wrong}


def fates(store: Store, **wishes: object) -> dict[Path, bool]:
    return {fate.path: fate.removed for fate in store.collect(Wishes(**wishes)).fates}  # type: ignore[arg-type]


class TestAbandoned:
    def test_an_ordinary_collection_names_them_and_leaves_them(self, store, left) -> None:
        found = store.collect(Wishes())
        assert {fate.path: fate.removed for fate in found.fates} == dict.fromkeys(left.values(), False)
        assert all("--failed" in fate.reason for fate in found.fates)
        assert all(path.exists() for path in left.values())

    def test_failed_takes_them_all_and_says_how_much(self, store, left) -> None:
        assert store.collect(Wishes(failed=True, dry_run=True)).freed == 1570
        assert all(path.exists() for path in left.values())
        assert store.collect(Wishes(failed=True)).freed == 1570
        assert not any(path.exists() for path in left.values())
        assert not list((store.root / "tmp").iterdir())

    @pytest.mark.parametrize(("days", "goes"), [(2, True), (4, False)])
    def test_old_ones_go_with_what_is_old(self, store, left, days: int, goes: bool) -> None:
        assert fates(store, older_than=days * 86400) == dict.fromkeys(left.values(), goes)

    def test_a_workspace_in_which_somebody_is_stays(self, store, left) -> None:
        with store.use_kept(left["workspace"]):
            assert fates(store, failed=True)[left["workspace"]] is False
        assert left["workspace"].exists()
        assert fates(store, failed=True)[left["workspace"]] is True

    def test_a_download_that_goes_on_stays(self, store, left) -> None:
        with store.lock(Key("ab" * 32)):
            assert fates(store, failed=True)[left["download"]] is False
        assert left["download"].exists()

    @pytest.mark.parametrize("point", ABANDONED_MATRIX)
    def test_a_killed_collector_leaves_what_the_next_one_takes(self, store, left, script: Script, point: str) -> None:
        done = script(COLLECT, store.root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        store.collect(Wishes(failed=True))
        assert not any(path.exists() for path in left.values())
        assert not list((store.root / "trash").iterdir())

    def test_a_collector_killed_in_between_leaves_what_the_next_run_sweeps(
        self, store, left, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr("hermetic.store.abandoned.trash.throw", die)
        with pytest.raises(KeyboardInterrupt):
            store.collect(Wishes(failed=True))
        with store.begin():
            assert not left["workspace"].exists()
