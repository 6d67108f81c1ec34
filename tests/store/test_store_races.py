"""Repair and import stand still at each of their steps while others work, and others stand still while they do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import Bench, Script, collector_is_locked_out, fill, frozen, key_of, start_script
from test_store_crash import EVERYTHING, MATRIX
from test_store_gc_crash import COLLECT, FREE, GC_MATRIX, LOCKED
from test_store_import import IMPORT, IMPORT_MATRIX
from test_store_profiles import LINK_MATRIX
from test_store_repair import REPAIR, REPAIR_MATRIX, tidy
from test_store_verify import flip_quietly, tamper

from hermetic.store import Store, Wishes, peek

# Three paths that share a file. The first is rooted, the second will be damaged in a file of its own.
SETTING = """
bench = Bench(Store.open(arguments[0]))
for name in ("kept", "broken", "other"):
    bench.make({"same": b"s" * 1000, "sub": {"own": name.encode()}}, name, resolved=resolved_of(name))
bench.store.add_root(arguments[1], key_of("kept"))
"""
# What wants the very path that is being dropped: lease, lock, look, build if it is not there, root.
BUILD = """
bench = Bench(Store.open(arguments[0]))
with bench.store.begin() as run:
    run.lease([key_of("broken")])
    with bench.store.lock(key_of("broken")):
        if bench.store.realisation(key_of("broken")) is None:
            out = fill(run.workspace().path / "out", {"same": b"s" * 1000, "sub": {"own": b"broken"}})
            run.ingest(out, key=key_of("broken"), name="broken", preimage={}, resolved=resolved_of("broken"))
    bench.store.add_root(arguments[1], key_of("broken"))
"""
# Early cutoff from a path that is whole and shares a file with the one that is dropped.
ADOPT = """
bench = Bench(Store.open(arguments[0]))
with bench.store.begin() as run:
    run.lease([key_of("twin"), key_of("kept")])
    with bench.store.lock(key_of("twin")):
        run.adopt(bench.store.realisation(key_of("kept")), key=key_of("twin"), name="twin", preimage={}, resolved=None)
    bench.store.add_root(arguments[1], key_of("twin"))
"""
LINK = 'Store.open(arguments[0]).profile("p").switch(key_of("kept"), Path(arguments[1]).parent / "links", cause="")'
# It is damaged, then gone: a switch to it finds it in place or refuses.
LINK_BROKEN = """
from hermetic.errors import HermeticError
try: Store.open(arguments[0]).profile("p").switch(key_of("broken"), Path(arguments[1]).parent / "links", cause="")
except HermeticError as error: assert error.reason == "not-realised", error
"""
IMPORT_ROOTED = """
from hermetic.store import import_tree
store = Store.open(arguments[0])
with store.begin() as run:
    store.add_root(arguments[1], import_tree(run, Path(arguments[1]).parent / "engine", "engine").key)
"""
WORK = {
    "build": BUILD, "adopt": ADOPT, "link": LINK, "link to it": LINK_BROKEN, "import": IMPORT_ROOTED, "gc": COLLECT,
    "repair": REPAIR,
}  # fmt: skip
IMPORT_STEPS = [
    *IMPORT_MATRIX, "run.after-marker", "ingest.after-folders", "blob.after-share", "enter.after-mode",
    "enter.after-preimage", "close.after-marker",
]  # fmt: skip
IMPORT_LOCKED = {"ingest.after-manifest", *(point for point in IMPORT_STEPS if point.startswith("enter."))}


@pytest.fixture
def setting(tmp_path: Path, script: Script) -> Bench:
    fill(tmp_path / "engine", {"same": b"s" * 1000, "engine": b"ftrt"})
    script(SETTING, tmp_path / "s", tmp_path / "result")
    return Bench(Store.open(tmp_path / "s"))


def damage(bench: Bench, name: str = "broken") -> None:
    path = bench.store.path(key_of(name), name) / "sub/own"
    tamper(path, flip_quietly)
    tidy(path.parent)


def names(bench: Bench) -> set[str]:
    return {record.name for record in bench.store.records()}


def read(bench: Bench) -> None:
    """What is rooted is there and whole for every reader, whoever does what."""
    assert bench.store.find(str(bench.store.root.parent / "result")).name == "kept"
    assert peek.realised(str(bench.store.root), key_of("kept").hex, "kept")
    assert (bench.store.path(key_of("kept"), "kept") / "sub/own").read_text() == "kept"


def begin(bench: Bench, body: str) -> subprocess.Popen[str]:
    return start_script(body, bench.store.root, bench.store.root.parent / "other")


def finishes(process: subprocess.Popen[str]) -> None:
    out = process.communicate(timeout=60)
    assert process.returncode == 0, out


def assert_whole(bench: Bench) -> None:
    """Nothing is wrong but what the test damaged, and a repair and a collection leave nothing over."""
    bench.store.repair()
    assert violations(bench.store.root) == []
    assert bench.store.verify() == []
    read(bench)
    bench.store.collect(Wishes())
    assert violations(bench.store.root, is_tidy=True) == []


def slow_but(quick: set[str], table: dict[str, str]) -> list[object]:
    marks = {name: () if name in quick else pytest.mark.slow for name in table}
    return [pytest.param(body, id=name, marks=marks[name]) for name, body in table.items()]


@pytest.mark.parametrize("body", slow_but({"build"}, WORK))
@pytest.mark.parametrize("point", REPAIR_MATRIX)
def test_a_repair_stands_still_while_others_work(setting: Bench, point: str, body: str) -> None:
    damage(setting)
    free = point in FREE  # it has let go of the gc lock, and only unlinks
    with frozen(setting.store.root, point, REPAIR):
        assert collector_is_locked_out(setting.store.root) != free
        read(setting)
        other = begin(setting, body)
        if free:
            finishes(other)
            read(setting)
    finishes(other)
    assert (setting.store.root.parent / "result").exists()
    assert "broken" in names(setting) or body is not BUILD
    assert violations(setting.store.root) == []
    assert setting.store.verify() == []
    assert_whole(setting)


@pytest.mark.parametrize("body", slow_but({"gc"}, {"gc": COLLECT, "repair": REPAIR, "import": IMPORT_ROOTED}))
@pytest.mark.parametrize("point", IMPORT_STEPS)
def test_an_import_stands_still_while_others_work(setting: Bench, point: str, body: str) -> None:
    damage(setting)
    with frozen(setting.store.root, point, IMPORT, setting.store.root.parent / "engine"):
        locked_out = collector_is_locked_out(setting.store.root)
        assert locked_out == (point in IMPORT_LOCKED)
        read(setting)
        other = begin(setting, body)
        if body is not IMPORT_ROOTED and not locked_out:
            finishes(other)
            read(setting)
    finishes(other)
    assert "engine" in names(setting) or body is COLLECT  # which may come when the import's lease has ended
    assert_whole(setting)


@pytest.mark.parametrize("body", slow_but(set(), {"import": IMPORT_ROOTED, "repair": REPAIR}))
@pytest.mark.parametrize("point", [point for point in GC_MATRIX if not point.endswith("#3")])  # two paths go here
def test_a_collector_stands_still_while_they_work(setting: Bench, point: str, body: str) -> None:
    if body is REPAIR:
        damage(setting, "kept")  # the only one that the collector leaves
    with frozen(setting.store.root, point, COLLECT):
        assert collector_is_locked_out(setting.store.root) == (point in LOCKED)
        other = begin(setting, body)
        if point in FREE:
            finishes(other)
    finishes(other)
    if body is REPAIR:
        assert names(setting) == set()
        assert setting.store.verify() == []
        return
    assert names(setting) == ({"kept", "engine"} if body is IMPORT_ROOTED else {"kept"})
    assert_whole(setting)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=() if point in ("blob.after-share", "enter.after-rename") else pytest.mark.slow)
        for point in MATRIX
        if not point.startswith("create.")
    ],
)
def test_a_driver_stands_still_while_a_repair_works(setting: Bench, source: Path, tmp_path: Path, point: str) -> None:
    """It makes paths of its own, which share a file with what is dropped: they become whole."""
    setting.make({"config.json": b"{}", "sub": {"own": b"sharer"}}, "sharer")
    damage(setting, "sharer")
    with frozen(setting.store.root, point, EVERYTHING, source, tmp_path / "built"):
        waits = collector_is_locked_out(setting.store.root)
        repair = begin(setting, REPAIR)
        if not waits:
            finishes(repair)
            assert "sharer" not in names(setting)
    finishes(repair)
    assert names(setting) == {"kept", "broken", "other", "engine", "source", "adopted"}
    assert violations(setting.store.root) == []
    assert setting.store.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("point", LINK_MATRIX)
def test_a_switch_stands_still_while_a_repair_works(setting: Bench, point: str) -> None:
    damage(setting)
    with frozen(setting.store.root, point, LINK, setting.store.root.parent / "unused"):
        waits = collector_is_locked_out(setting.store.root)
        repair = begin(setting, REPAIR)
        if not waits:
            finishes(repair)
        read(setting)
    finishes(repair)
    assert (setting.store.root.parent / "links/p/sub/own").read_text() == "kept"
    assert_whole(setting)


def test_two_repairs_at_once(setting: Bench) -> None:
    damage(setting)
    with frozen(setting.store.root, "repair.after-record", REPAIR):
        second = begin(setting, REPAIR)
    finishes(second)
    assert names(setting) == {"kept", "other"}
    assert_whole(setting)
