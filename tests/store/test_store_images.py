"""Unpacked images are collected, counted and verified as store paths are, and never under somebody who uses one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_kit import Bench, Script, fill, frozen, start_script

from hermetic.store import Fate, Store, Wishes, images

IMAGE_MATRIX = ["gc.after-image", "repair.after-image"]
COLLECT = "from hermetic.store import Wishes; Store.open(arguments[0]).collect(Wishes())"
ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")
TREE = {"bin": {"sh": b"#!"}, "etc": {"motd": b"hello", "empty": b""}}


def unpack(store: Store, digest: str = ONE, tree: dict = TREE, name: str = "registry.example.com/tool:1") -> Path:
    folder = Path(images.folder_of(str(store.root), digest))
    fill(folder / "rootfs", tree)
    os.symlink("/bin/sh", folder / "rootfs/link to somewhere else")
    (folder / "config.json").write_text("{}")
    images.seal(str(folder), digest, name, {"PATH": "/bin"})
    return folder


def fates(store: Store, **wishes) -> dict[str, Fate]:
    return {fate.path.name: fate for fate in store.collect(Wishes(**wishes)).fates}


class TestCollection:
    def test_one_that_nobody_needs_goes(self, store: Store) -> None:
        folder = unpack(store)
        (fate,) = store.collect(Wishes(dry_run=True)).fates
        assert (fate.path, fate.removed, fate.freed, fate.reason) == (folder, True, 7, "nothing keeps it alive")
        assert folder.exists()
        assert store.collect(Wishes()).freed == 7
        assert os.listdir(store.root / "images") == os.listdir(store.root / "trash") == []

    def test_what_an_output_was_made_in_stays_as_long_as_that(self, bench: Bench, tmp_path: Path) -> None:
        store = bench.store
        unpack(store, ONE)
        unpack(store, TWO)
        preimage = {"name": "engine", "environment": {"kind": "image", "manifest": ONE}}
        store.add_root(tmp_path / "result", bench.make({"f": b"f"}, preimage=preimage).key)
        found = fates(store)
        assert found["1" * 64].reason == "what engine was made in"
        assert not found["1" * 64].removed
        assert found["2" * 64].removed
        store.remove_root(tmp_path / "result")
        assert fates(store)["1" * 64].removed

    def test_a_lease_keeps_it(self, store: Store) -> None:
        folder = unpack(store)
        with store.begin() as run:
            run.lease([images.key_of(ONE)])
            assert fates(store)["1" * 64].reason == f"leased by run {run.id}"
        assert folder.exists()
        assert fates(store)["1" * 64].removed

    def test_age_is_when_it_was_unpacked(self, store: Store) -> None:
        for digest, days in ((ONE, 10), (TWO, 1)):
            marker = unpack(store, digest) / "complete"
            os.utime(marker, (marker.stat().st_mtime - days * 86400,) * 2)
        found = fates(store, older_than=5 * 86400)
        assert found["1" * 64].removed
        assert "not long ago" in found["2" * 64].reason

    @pytest.mark.parametrize(("room", "going"), [(3000, set()), (2999, {"1" * 64}), (999, {"1" * 64, "2" * 64})])
    def test_its_bytes_count_for_the_size_of_the_store(self, store: Store, room: int, going: set[str]) -> None:
        unpack(store, ONE, {"f": b"x" * 2000})
        unpack(store, TWO, {"f": b"x" * 1000})
        found = fates(store, max_size=room)
        assert {name for name, fate in found.items() if fate.removed} == going

    def test_cheapest_to_have_back_goes_first(self, bench: Bench) -> None:
        """An output of the same size that nobody can bring back stays."""
        unpack(bench.store, ONE, {"f": b"x" * 2000})
        bench.make({"f": b"y" * 2000}, "precious", impure=True, preimage={"stage": "import"})
        found = fates(bench.store, max_size=2000)
        assert [name[-8:] for name, fate in found.items() if fate.removed] == ["1" * 8]

    @pytest.mark.parametrize("name", ["1" * 64 + ".partial", "1" * 64])
    def test_what_an_interrupted_pull_left(self, store: Store, name: str) -> None:
        fill(store.root / "images" / name, {"in": {"layout": {"blob": b"bytes"}}})
        with store.begin() as run:
            run.lease([images.key_of(ONE)])
            assert fates(store) == {}
        assert fates(store)[name].reason == "an image that was never whole"
        assert os.listdir(store.root / "images") == []

    def test_odd_modes_and_owners_do_not_keep_it(self, store: Store) -> None:
        folder = unpack(store)
        for name in ("bin", "etc"):
            (folder / "rootfs" / name).chmod(0)
            if os.geteuid() == 0:
                os.chown(folder / "rootfs" / name, 64733, 64733)
        assert fates(store)["1" * 64].removed
        assert os.listdir(store.root / "trash") == []

    def test_one_whose_marker_cannot_be_read_is_nobody_s(self, store: Store) -> None:
        (unpack(store) / "complete").write_text("{")
        assert images.read(str(store.root), ONE) is None
        assert fates(store)["1" * 64].reason == "an image that was never whole"


# As `hermetic.sandbox.images.materialise` does: lease, look, unpack if need be, use.
LAUNCH = """
from hermetic.store import images
digest = arguments[1]
store = Store.open(arguments[0])
with store.begin() as run:
    run.lease([images.key_of(digest)])
    with store.lock(images.key_of(digest)):
        found = images.read(str(store.root), digest)
        if found is None:
            fill(Path(images.folder_of(str(store.root), digest)) / "rootfs", {"etc": {"motd": b"hello"}})
            images.seal(images.folder_of(str(store.root), digest), digest, "again", {})
            found = images.read(str(store.root), digest)
    print(Path(found.root, "etc/motd").read_text(), flush=True)
    Path(arguments[2]).read_text()
    print(Path(found.root, "etc/motd").read_text(), flush=True)
"""


class TestCrashesAndRaces:
    @pytest.mark.parametrize("point", ["gc.after-mark", "gc.after-image", "gc.after-sync", "gc.after-move"])
    def test_a_killed_collector_leaves_a_whole_image_or_garbage(self, store: Store, script: Script, point: str) -> None:
        unpack(store)
        done = script(COLLECT, store.root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        found = images.read(str(store.root), ONE)
        assert found is None or list(images.problems(found)) == []
        store.collect(Wishes())
        assert os.listdir(store.root / "images") == os.listdir(store.root / "trash") == []

    @pytest.mark.parametrize(
        "point", ["gc.after-mark", "gc.after-image", "gc.after-sync", "gc.after-move", "gc.after-release"]
    )
    def test_a_launch_while_the_collector_stands_still(self, store: Store, tmp_path: Path, point: str) -> None:
        """It waits until the collector has decided, and then has the old image or a new one, for as long as it runs."""
        unpack(store)
        os.mkfifo(tmp_path / "go")
        with frozen(store.root, point, COLLECT):
            launch = start_script(LAUNCH, store.root, ONE, tmp_path / "go")
        self.finish(store, launch, tmp_path / "go")

    def finish(self, store: Store, launch: subprocess.Popen[str], go: Path) -> None:
        assert launch.stdout is not None
        assert launch.stdout.readline() == "hello\n", launch.communicate()
        store.collect(Wishes())
        go.write_text("")
        out, err = launch.communicate(timeout=60)
        assert (out, launch.returncode) == ("hello\n", 0), err
        store.collect(Wishes())
        assert os.listdir(store.root / "images") == os.listdir(store.root / "trash") == []

    @pytest.mark.parametrize("point", ["gc.after-mark", "gc.after-release"])
    def test_a_collector_stands_still_while_a_launch_goes_on(self, store: Store, tmp_path: Path, point: str) -> None:
        folder = unpack(store)
        os.mkfifo(tmp_path / "go")
        launch = start_script(LAUNCH, store.root, ONE, tmp_path / "go")
        assert launch.stdout is not None
        first = launch.stdout.readline()
        assert first == "hello\n", launch.communicate()
        with frozen(store.root, point, COLLECT):
            assert (folder / "rootfs/etc/motd").read_text() == "hello"
        assert (folder / "rootfs/etc/motd").read_text() == "hello"
        (tmp_path / "go").write_text("")
        out, err = launch.communicate(timeout=60)
        assert (out, launch.returncode) == ("hello\n", 0), err


CHANGES: dict[str, Callable[[Path], object]] = {
    "has another contents": lambda root: _quietly(root / "etc/motd", b"jello"),
    "has another mode": lambda root: (root / "etc/motd").chmod(0o600),
    "is missing": lambda root: _unlink_quietly(root / "etc/motd"),
    "has another time": lambda root: os.utime(root / "etc/motd", (1, 1)),
}


def _quietly(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _unlink_quietly(path: Path) -> None:
    status = path.parent.stat()
    path.unlink()
    os.utime(path.parent, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestVerification:
    def test_a_whole_one(self, store: Store) -> None:
        unpack(store)
        assert store.verify() == []
        assert store.repair() == []

    @pytest.mark.parametrize("what", CHANGES)
    def test_every_difference_is_named(self, store: Store, what: str) -> None:
        folder = unpack(store)
        CHANGES[what](folder / "rootfs")
        (problem,) = store.verify()
        assert (problem.key, problem.path, problem.what) == (None, folder / "rootfs/etc/motd", what)

    def test_what_was_added_and_where_a_link_leads(self, store: Store) -> None:
        folder = unpack(store)
        link = folder / "rootfs/link to somewhere else"
        link.unlink()
        link.symlink_to("/bin/ls")
        (folder / "rootfs/new").touch()
        assert {problem.path.name for problem in store.verify()} >= {"new", link.name}

    def test_repair_drops_it_unless_it_is_used(self, store: Store) -> None:
        folder = unpack(store)
        (folder / "rootfs/etc/motd").unlink()
        with store.begin() as run:
            run.lease([images.key_of(ONE)])
            (drop,) = store.repair()
            assert drop.why_not == f"run {run.id} is using it"
        (drop,) = store.repair()
        assert (drop.key, drop.path, drop.why_not) == (None, folder, "")
        assert not folder.exists()

    def test_a_killed_repair(self, store: Store, script: Script) -> None:
        (unpack(store) / "rootfs/etc/motd").unlink()
        done = script(
            "Store.open(arguments[0]).repair()",
            store.root,
            env={"HERMETIC_TEST_SYNC": "repair.after-image:kill"},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert images.read(str(store.root), ONE) is None
        store.collect(Wishes())
        assert os.listdir(store.root / "images") == []

    def test_one_of_an_older_version_has_nothing_to_compare(self, store: Store) -> None:
        folder = unpack(store)
        (folder / "files").unlink()
        recorded = json.loads((folder / "complete").read_bytes())
        del recorded["size"], recorded["name"]
        (folder / "complete").write_text(json.dumps(recorded))
        assert store.verify() == []
        assert [image.size for image in store.images()] == [7]


def test_du_shows_it(store: Store) -> None:
    unpack(store)
    command = [sys.executable, "-m", "hermetic", "du", "--store", str(store.root), "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    image, total = map(json.loads, done.stdout.splitlines())
    assert (image["image"], image["size"], image["own"], total["total"]) == ("registry.example.com/tool:1", 7, 7, 7)
