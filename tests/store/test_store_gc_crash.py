"""P2 and P3 with a collector: killed at any sync point, and standing still at any while others build, link and read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import Bench, Script, collector_is_locked_out, frozen, key_of, resolved_of, start_script
from test_store_crash import EVERYTHING, MATRIX

from hermetic.errors import HermeticError
from hermetic.store import Store, Wishes, peek

# Four paths, of which one is rooted; two of the dead share files with it, and one is an orphan of a killed ingest.
SETTING = """
bench = Bench(Store.open(arguments[0]))
for name in ("kept", "dead", "twin"):
    bench.make({"same": b"s" * 1000, "own": name.encode(), "sub": {"file": name.encode()}}, name,
               resolved=resolved_of(name))
bench.make({"own": b"orphan"}, "orphan")
os.unlink(bench.store.layout.record(key_of("orphan")))
bench.store.add_root(arguments[1], key_of("kept"))
"""
COLLECT = "from hermetic.store import Wishes; Store.open(arguments[0]).collect(Wishes())"
LOCKED = [
    "gc.after-mark", "gc.after-resolved", "gc.after-record", "gc.after-resolved#2", "gc.after-record#2",
    "gc.after-sync", "gc.after-move", "gc.after-move#3", "gc.after-manifest", "gc.after-manifest#3",
]  # fmt: skip
FREE = ["gc.after-release", "trash.after-tree", "trash.after-tree#3", "trash.after-blobs"]
STALE = ["gc.after-stale", "gc.after-stale#2"]
GC_MATRIX = LOCKED + FREE

# What a driver does that wants the very path that is being collected: lease, look, build if need be, root.
BUILD = """
bench = Bench(Store.open(arguments[0]))
with bench.store.begin() as run:
    run.lease([key_of("dead")])
    with bench.store.lock(key_of("dead")):
        found = bench.store.realisation(key_of("dead"))
        if found is None:
            out = fill(run.workspace().path / "out", {"same": b"s" * 1000, "own": b"dead", "sub": {"file": b"dead"}})
            run.ingest(out, key=key_of("dead"), name="dead", preimage={}, resolved=resolved_of("dead"))
    bench.store.add_root(arguments[1], key_of("dead"))
"""
# Early cutoff: adopt a path that is being collected, if it is still there once it is leased.
ADOPT = """
bench = Bench(Store.open(arguments[0]))
with bench.store.begin() as run:
    run.lease([key_of("new"), *bench.store.resolved(resolved_of("dead"))])
    with bench.store.lock(key_of("new")):
        for equal in bench.store.resolved(resolved_of("dead")):
            run.adopt(bench.store.realisation(equal), key=key_of("new"), name="new", preimage={}, resolved=None)
        if bench.store.realisation(key_of("new")) is None:
            out = fill(run.workspace().path / "out", {"same": b"s" * 1000, "own": b"dead"})
            run.ingest(out, key=key_of("new"), name="new", preimage={}, resolved=None)
    bench.store.add_root(arguments[1], key_of("new"))
"""
# A link without a lease: the path may be gone, but a link that was made leads somewhere.
ROOT = """
from hermetic.errors import HermeticError
try: Store.open(arguments[0]).add_root(arguments[1], key_of("dead"))
except HermeticError as error: assert error.reason == "unknown-path", error
"""


@pytest.fixture
def setting(tmp_path: Path, script: Script) -> Bench:
    script(SETTING, tmp_path / "s", tmp_path / "result")
    return Bench(Store.open(tmp_path / "s"))


@pytest.mark.parametrize("point", GC_MATRIX)
def test_killed_at_any_point_the_next_collection_finishes(setting: Bench, script: Script, point: str) -> None:
    root = setting.store.root
    done = script(COLLECT, root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert violations(root) == []
    script(COLLECT, root)
    assert violations(root, is_tidy=True) == []
    assert {record.name for record in setting.store.records()} == {"kept"}
    assert setting.store.verify() == []


@pytest.mark.parametrize("point", ["gc.after-record#2", "gc.after-manifest#2", "trash.after-tree#2", "gc.after-sync"])
def test_the_same_where_several_threads_remove(setting: Bench, script: Script, point: str) -> None:
    root = setting.store.root
    body = f"from hermetic.store import trash; trash._MANY = 1; {COLLECT}"
    done = script(body, root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert violations(root) == []
    script(body, root)
    assert violations(root, is_tidy=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("point", GC_MATRIX)
def test_killed_at_any_point_the_next_build_works(setting: Bench, script: Script, tmp_path: Path, point: str) -> None:
    root = setting.store.root
    script(COLLECT, root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    script(BUILD, root, tmp_path / "again")
    assert violations(root) == []
    setting.store.collect(Wishes())
    assert violations(root, is_tidy=True) == []
    assert {record.name for record in setting.store.records()} == {"kept", "dead"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BUILD, id="build"),
        pytest.param(ADOPT, id="adopt", marks=pytest.mark.slow),
        pytest.param(ROOT, id="root", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("point", GC_MATRIX)
def test_the_collector_stands_still_while_others_work(setting: Bench, tmp_path: Path, point: str, body: str) -> None:
    root = setting.store.root
    with frozen(root, point, COLLECT):
        assert collector_is_locked_out(root) == (point in LOCKED)
        read(setting)
        other = start_script(body, root, tmp_path / "other")
        if point in FREE:
            assert other.wait(60) == 0, other.communicate()
            read(setting)
    out = other.communicate(timeout=60)
    assert other.returncode == 0, out
    assert violations(root) == []
    expected = {"kept"} if body is ROOT else {"kept", "dead" if body is BUILD else "new"}
    assert {record.name for record in setting.store.records()} >= expected
    setting.store.collect(Wishes())
    assert violations(root, is_tidy=True) == []
    assert {record.name for record in setting.store.records()} - {"dead"} == expected - {"dead"}
    assert os.path.exists(tmp_path / "other") or (body is ROOT and not os.path.lexists(tmp_path / "other"))


def read(bench: Bench) -> None:
    """Whoever reads sees a path whole or not at all; what is rooted they see."""
    assert violations(bench.store.root) == []
    assert bench.store.find(str(bench.store.root.parent / "result")).name == "kept"
    for name in ("kept", "dead", "twin"):
        key = key_of(name)
        record = bench.store.realisation(key)
        assert (record is not None) == peek.realised(str(bench.store.root), key.hex, name)
        assert record is None or (bench.path(record) / "sub" / "file").read_text() == name
        assert record is not None or name != "kept"


@pytest.mark.parametrize("point", [point for point in MATRIX if not point.startswith("create.")])
def test_a_driver_stands_still_while_the_collector_works(
    tmp_path: Path, script: Script, source: Path, point: str
) -> None:
    """Whatever a leased run is in the middle of, a collection waits or leaves it alone."""
    root = tmp_path / "s"
    bench = Bench(Store.open(root))
    bench.make({"config.json": b"{}", "x": b"x"}, "garbage")  # shares a blob with what is being built
    with frozen(root, point, EVERYTHING, source, tmp_path / "result"):
        waits = collector_is_locked_out(root)
        collector = start_script(COLLECT, root)
        if not waits:
            assert collector.wait(60) == 0, collector.communicate()
            assert not (root / "realisations" / key_of("garbage").hex[:2] / key_of("garbage").hex).exists()
        assert violations(root) == []
    out = collector.communicate(timeout=60)
    assert collector.returncode == 0, out
    assert violations(root) == []
    bench.store.collect(Wishes())
    assert violations(root, is_tidy=True) == []
    assert {record.name for record in bench.store.records()} == {"engine"}


UNLEASED = """
bench = Bench(Store.open(arguments[0]))
bench.make(ENGINE)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", [p for p in MATRIX if p.split(".")[0] in ("ingest", "enter", "blob") and "#" not in p]
)
def test_what_enters_unleased_is_whole_or_gone(tmp_path: Path, point: str) -> None:
    """Nobody should, but whoever ingests without a lease must not end up with half a path either."""
    root = tmp_path / "s"
    bench = Bench(Store.open(root))
    bench.make({"config.json": b"{}"}, "garbage")
    if point == "ingest.after-copy":
        pytest.skip("nothing is copied from a workspace")
    body = (
        UNLEASED if point != "enter.after-resolved" else UNLEASED.replace("ENGINE", 'ENGINE, resolved=resolved_of("e")')
    )
    with frozen(root, point, body):
        collector = start_script(COLLECT, root)
        if not collector_is_locked_out(root):
            collector.wait(60)
    collector.communicate(timeout=60)
    assert collector.returncode == 0
    assert violations(root) == []
    bench.store.collect(Wishes())
    assert violations(root, is_tidy=True) == []


@pytest.mark.parametrize("point", STALE)
def test_killed_while_it_drops_what_a_killed_ingest_left(tmp_path: Path, script: Script, point: str) -> None:
    root = tmp_path / "s"
    for name in ("one", "two"):
        body = f"Bench(Store.open(arguments[0])).make({{}}, {name!r}, resolved=resolved_of('r'))"
        script(body, root, env={"HERMETIC_TEST_SYNC": "enter.after-resolved:kill"}, check=False)
    assert len(list(root.glob("resolved/*/*/*"))) == 2
    killed = script(COLLECT, root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    script(COLLECT, root)
    assert violations(root, is_tidy=True) == []


def test_what_a_killed_ingest_left_is_not_believed(tmp_path: Path, script: Script) -> None:
    """The key was realised again, from inputs that turned out otherwise: it does not resolve as it would have then."""
    bench = Bench(Store.open(tmp_path / "s"))
    body = "Bench(Store.open(arguments[0])).make({'a': b'old'}, 'k', resolved=resolved_of('old'))"
    script(body, bench.store.root, env={"HERMETIC_TEST_SYNC": "enter.after-resolved:kill"}, check=False)
    bench.make({"a": b"new"}, "k", resolved=resolved_of("new"))
    assert bench.store.resolved(resolved_of("old")) == []
    assert bench.store.resolved(resolved_of("new")) == [key_of("k")]
    with bench.store.begin() as run:
        run.lease([key_of("k")])
        bench.store.collect(Wishes())
        assert violations(bench.store.root) == []
        assert len(list(bench.store.root.glob("resolved/*/*/*"))) == 1


def test_two_collectors_at_once(setting: Bench, script: Script) -> None:
    """One empties the trash while another comes along and empties it too."""
    with frozen(setting.store.root, "gc.after-release", COLLECT):
        script(COLLECT, setting.store.root)
        assert violations(setting.store.root, is_tidy=True) == []
    assert violations(setting.store.root, is_tidy=True) == []


def test_a_path_that_goes_between_look_and_adoption(setting: Bench) -> None:
    """Without a lease it may: then adopting it says so, and nothing half-made is left."""
    record = setting.store.realisation(key_of("dead"))
    assert record is not None
    with setting.store.begin() as run:
        setting.store.collect(Wishes())
        with pytest.raises(HermeticError) as caught:
            run.adopt(record, key=key_of("new"), name="new", preimage={}, resolved=None)
    assert caught.value.reason == "unknown-tree"
    assert violations(setting.store.root, is_tidy=True) == []
