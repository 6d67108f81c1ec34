"""P2: a store path with a realisation is complete and verified, after a kill at any sync point."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from store_kit import ENGINE, Bench, Script, digest_of, frozen, key_of

from hermetic.store import Store, peek

# Everything a driver does with a store, once.
EVERYTHING = """
bench = Bench(Store.open(arguments[0]))
with bench.store.begin() as run:
    run.lease([key_of("engine"), key_of("source"), key_of("adopted")])
    engine = bench.put(run, ENGINE, resolved=resolved_of("engine"))
    with bench.store.lock(key_of("source")):
        run.ingest(Path(arguments[1]), key=key_of("source"), name="source", preimage={"s": 1}, resolved=None)
    with bench.store.lock(key_of("adopted")):
        run.adopt(engine, key=key_of("adopted"), name="adopted", preimage={"a": 1}, resolved=resolved_of("engine"))
    bench.store.add_root(arguments[2], engine.key)
"""
ONCE = [
    "create.after-unfinished", "create.after-folders", "create.after-format", "run.after-lease", "run.after-marker",
    "ingest.after-survey", "ingest.after-copy", "ingest.after-files", "ingest.after-folders", "ingest.after-manifest",
    "adopt.after-manifest", "adopt.after-links", "root.after-record", "root.after-temporary", "root.after-link",
    "close.after-sync", "close.after-marker",
]  # fmt: skip
ONE = "Bench(Store.open(arguments[0])).make(ENGINE)"
# In the ingest, and again in the adoption.
SHARED = [
    "enter.after-old-record", "enter.after-old-output", "enter.after-rename", "enter.after-mode",
    "enter.after-preimage", "enter.after-resolved", "enter.after-record",
]  # fmt: skip
SEVERAL = ["blob.after-share", *(f"write.after-temporary#{n}" for n in range(1, 8))]
RECOVERY = ["recover.after-outputs", "recover.after-blobs"]
# The source has no resolved key, so the second time is the adoption's; the other steps are reached three times.
TWICE = [f"{name}#{2 if name == 'enter.after-resolved' else 3}" for name in SHARED]
MATRIX = [*ONCE, *SEVERAL, *SHARED, *TWICE, "blob.after-share#5"]


def check(root: Path) -> set[str]:
    """Names of the realised outputs, after holding each against its record with nothing of the store's own code."""
    names = set()
    for path in root.glob("realisations/*/*"):
        record = json.loads(path.read_bytes())
        (output,) = [p for p in (root / "store").iterdir() if p.name.endswith("-" + record["name"])]
        assert record["key"] == path.name
        assert digest_of(output).hex == record["tree"]
        assert (root / "derivations" / path.name[:2] / path.name).stat().st_size
        assert {oct(p.stat().st_mode & 0o7777) for p in (output, *output.rglob("*")) if p.is_dir()} == {"0o555"}
        names.add(record["name"])
    return names


def check_tidy(root: Path) -> None:
    for folder in ("tmp", "leases"):
        assert os.listdir(root / folder) == []
    assert list((root / "pending").glob("*/*")) == []
    assert {p.name[33:] for p in (root / "store").iterdir()} == check(root) == {"engine", "source", "adopted"}


@pytest.mark.parametrize("point", MATRIX)
def test_killed_at_any_point_the_next_run_finishes(tmp_path: Path, source: Path, script: Script, point: str) -> None:
    root, link = tmp_path / "s", tmp_path / "result"
    done = script(EVERYTHING, root, source, link, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    check(root)
    script(EVERYTHING, root, source, link)
    check_tidy(root)
    assert Store.open(root).verify() == []
    assert os.readlink(link).startswith(f"{root}/store/")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".hermetic")] == []


@pytest.mark.parametrize("point", RECOVERY)
def test_killed_while_recovering(tmp_path: Path, source: Path, script: Script, point: str) -> None:
    root, link = tmp_path / "s", tmp_path / "result"
    lost = {"HERMETIC_TEST_BOOT_ID": "one", "HERMETIC_TEST_SYNC": "close.after-sync:kill"}
    script(EVERYTHING, root, source, link, env=lost, check=False)
    damage(next((root / "store").glob("*-source")) / "recipe.py")
    again = {"HERMETIC_TEST_BOOT_ID": "two", "HERMETIC_TEST_SYNC": f"{point}:kill"}
    assert script(EVERYTHING, root, source, link, env=again, check=False).returncode == -signal.SIGKILL
    assert check(root) == {"engine", "adopted"}
    script(EVERYTHING, root, source, link, env={"HERMETIC_TEST_BOOT_ID": "two"})
    check_tidy(root)


def damage(path: Path) -> None:
    """What a lost write leaves: the right size and time, other bytes."""
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes(status.st_size))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestAnotherBoot:
    """A marker from another boot means: verify that run's trees before use, drop those that are not whole."""

    @pytest.fixture
    def lost(self, tmp_path: Path) -> Bench:
        """A store whose machine went down in boot "one" after two outputs, before the run could sync."""
        bench = Bench(Store.open(tmp_path / "s", boot_id="one"))
        with bench.store.begin() as run:
            bench.put(run, ENGINE)
            bench.put(run, {"config.json": b"{}", "own": b"data"}, "second")
        marker = bench.store.root / "pending/one" / run.id
        marker.parent.mkdir()
        marker.touch()
        return bench

    @staticmethod
    def reopen(bench: Bench) -> Bench:
        return Bench(Store.open(bench.store.root, boot_id="two"))

    def test_whole_outputs_stay(self, lost: Bench) -> None:
        later = self.reopen(lost)
        assert later.store.realisation(key_of("engine")) is not None
        with later.store.begin():
            pass
        assert later.store.realisation(key_of("engine")) is not None
        assert os.listdir(lost.store.root / "pending") == []

    def test_a_truncated_file_drops_its_output_and_its_blob(self, lost: Bench) -> None:
        path = next((lost.store.root / "store").glob("*-second")) / "own"
        blob = next(p for p in (lost.store.root / "blobs").glob("*/*") if p.samefile(path))
        path.chmod(0o644)
        os.truncate(path, 1)
        path.chmod(0o444)
        later = self.reopen(lost)
        assert later.store.realisation(key_of("second")) is None
        assert later.store.realisation(key_of("engine")) is not None
        with later.store.begin() as run:
            assert not path.exists()
            assert not blob.exists()
            later.put(run, {"config.json": b"{}", "own": b"data"}, "second")
        assert later.store.verify() == []

    def test_lost_bytes_of_the_right_size_are_found(self, lost: Bench) -> None:
        damage(next((lost.store.root / "store").glob("*-engine")) / "weights/rank0.engine")
        later = self.reopen(lost)
        assert later.store.realisation(key_of("engine")) is None
        assert later.make(ENGINE).key == key_of("engine")
        assert later.store.verify() == []

    @pytest.mark.parametrize("folder", ["realisations", "derivations", "trees"])
    def test_lost_records(self, lost: Bench, folder: str) -> None:
        for path in (lost.store.root / folder).glob("*/*"):
            os.truncate(path, 0)
        later = self.reopen(lost)
        assert later.store.realisation(key_of("engine")) is None
        later.make(ENGINE)
        later.make({"config.json": b"{}", "own": b"data"}, "second")
        assert later.store.verify() == []

    def test_a_run_that_synced_is_not_doubted(self, lost: Bench) -> None:
        durable = lost.make({"old": b"1"}, "durable")
        damage(lost.path(durable) / "old")
        assert self.reopen(lost).store.realisation(durable.key) == durable

    def test_the_quick_look_says_no_until_it_is_settled(self, lost: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HERMETIC_TEST_BOOT_ID", "two")
        root, key = str(lost.store.root), key_of("engine").hex
        assert not peek.realised(root, key, "engine")
        with Store.open(root).begin():
            pass
        assert peek.realised(root, key, "engine")

    def test_a_dead_run_of_this_boot_is_made_durable_by_the_next(
        self, tmp_path: Path, source: Path, script: Script
    ) -> None:
        kill = {"HERMETIC_TEST_SYNC": "enter.after-record:kill"}
        script(EVERYTHING, tmp_path / "s", source, tmp_path / "result", env=kill, check=False)
        bench = Bench(Store.open(tmp_path / "s"))
        assert len(bench.store.pending.of_this_boot()) == 1
        assert bench.store.realisation(key_of("engine")) is not None
        bench.make({"a": b""}, "other")
        assert bench.store.pending.of_this_boot() == []


class TestFrozen:
    """Two drivers, one of which stands still between two steps."""

    @pytest.mark.parametrize("point", ["enter.after-rename", "enter.after-mode", "enter.after-preimage"])
    def test_a_path_without_its_record_does_not_exist(self, bench: Bench, point: str) -> None:
        store, key = bench.store, key_of("engine")
        with frozen(store.root, point, ONE):
            assert store.path(key, "engine").exists()
            assert store.realisation(key) is None
            assert not peek.realised(str(store.root), key.hex, "engine")
            assert not store.lock(key).try_acquire()
        with store.lock(key):
            assert store.realisation(key) is not None

    def test_a_live_workspace_is_not_swept(self, bench: Bench) -> None:
        with frozen(bench.store.root, "ingest.after-survey", ONE):
            bench.make({"a": b""}, "other")
            assert os.listdir(bench.store.root / "tmp")
        assert bench.store.verify() == []
        assert bench.store.realisation(key_of("engine")) is not None
        assert os.listdir(bench.store.root / "tmp") == []

    def test_a_live_runs_marker_stays(self, bench: Bench) -> None:
        with frozen(bench.store.root, "ingest.after-survey", ONE):
            (alive,) = bench.store.pending.of_this_boot()
            bench.make({"a": b""}, "other")
            assert bench.store.pending.of_this_boot() == [alive]
        assert bench.store.pending.of_this_boot() == []
