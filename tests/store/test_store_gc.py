"""What a collection removes, what it keeps, what it says, and in which order it makes room."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from store_kit import ENGINE, Bench, Script, key_of, resolved_of

from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import Collection, Realisation, Store, Wishes


def gc(bench: Bench, **wishes: Any) -> Collection:
    return bench.store.collect(Wishes(**wishes))


def names(fates: object) -> list[str]:
    return [fate.path.name[33:] for fate in fates]  # type: ignore[attr-defined]


def there(bench: Bench) -> set[str]:
    return {name[33:] for name in os.listdir(bench.store.root / "store")}


def files_below(root: Path, *folders: str) -> list[str]:
    return sorted(str(p.relative_to(root)) for folder in folders for p in (root / folder).rglob("*") if p.is_file())


@pytest.fixture
def three(bench: Bench, tmp_path: Path) -> dict[str, Realisation]:
    """`kept` is rooted; `dead` shares a file with it; `alone` shares nothing."""
    found = {
        "kept": bench.make({"same": b"s" * 1000, "own": b"k" * 10}, "kept", resolved=resolved_of("kept")),
        "dead": bench.make({"same": b"s" * 1000, "own": b"d" * 20}, "dead", resolved=resolved_of("dead")),
        "alone": bench.make({"a": b"a" * 300, "again": b"a" * 300}, "alone"),
    }
    bench.store.add_root(tmp_path / "result", found["kept"].key)
    return found


class TestWhatGoes:
    def test_the_dead_go_with_all_that_only_they_need(self, bench: Bench, three: dict[str, Realisation]) -> None:
        done = gc(bench)
        assert sorted(names(done.removed)) == ["alone", "dead"]
        assert names(done.kept) == ["kept"]
        assert {fate.path.name[33:]: fate.freed for fate in done.fates} == {"dead": 20, "alone": 300, "kept": 0}
        assert done.freed == 320
        root = bench.store.root
        assert there(bench) == {"kept"}
        assert os.listdir(root / "trash") == os.listdir(root / "tmp") == []
        assert [path.split("/")[-1] for path in files_below(root, "trees")] == [three["kept"].tree.hex]
        assert [path.split("/")[-1] for path in files_below(root, "realisations")] == [three["kept"].key.hex]
        assert len(files_below(root, "blobs")) == 2
        assert len(files_below(root, "derivations")) == 3  # why-rebuild compares with them
        assert bench.store.resolved(resolved_of("dead")) == []
        assert bench.store.resolved(resolved_of("kept")) == [three["kept"].key]
        assert os.listdir(root / "resolved" / resolved_of("kept").hex[:2]) == [resolved_of("kept").hex]
        assert bench.store.verify() == []

    def test_what_was_collected_can_be_realised_again(self, bench: Bench, three: dict[str, Realisation]) -> None:
        gc(bench)
        again = bench.make({"same": b"s" * 1000, "own": b"d" * 20}, "dead", resolved=resolved_of("dead"))
        assert again.tree == three["dead"].tree
        assert bench.store.resolved(resolved_of("dead")) == [again.key]
        assert bench.store.verify() == []

    def test_a_dry_run_says_the_same_and_changes_nothing(self, bench: Bench, three: dict[str, Realisation]) -> None:
        before = files_below(bench.store.root, ".")
        planned = gc(bench, dry_run=True)
        assert files_below(bench.store.root, ".") == before
        done = gc(bench)
        assert planned.dry_run
        assert (planned.fates, planned.freed) == (done.fates, done.freed)
        assert all(fate.reason for fate in done.fates)

    def test_bytes_that_two_victims_share_are_counted_once(self, bench: Bench) -> None:
        bench.make({"same": b"s" * 1000}, "one")
        bench.make({"same": b"s" * 1000, "x": b"x"}, "two")
        done = gc(bench)
        assert done.freed == 1001
        assert sorted(fate.freed for fate in done.fates) in ([0, 1001], [1, 1000])

    def test_an_empty_store(self, bench: Bench) -> None:
        assert gc(bench) == Collection((), 0, 0, 0, dry_run=False)

    def test_an_output_that_is_gone_already_takes_its_record_along(self, bench: Bench) -> None:
        record = bench.make(ENGINE)
        shutil.rmtree(bench.path(record))
        assert names(gc(bench).removed) == ["engine"]
        assert files_below(bench.store.root, "realisations", "trees", "blobs") == []

    def test_logs_stay_until_they_are_old(self, bench: Bench) -> None:
        bench.store.start_attempt(key_of("dead"), "dead").finish("exited")
        gc(bench)
        assert len(bench.store.attempts(key_of("dead"))) == 1


class TestWhatStays:
    def test_references_of_what_is_rooted(self, bench: Bench, tmp_path: Path) -> None:
        bench.make({"w": b"1"}, "weights")
        bench.make({"t": b"2"}, "middle", references=[key_of("weights")])
        bench.make({"e": b"3"}, "top", references=[key_of("middle")])
        bench.store.add_root(tmp_path / "result", key_of("top"))
        done = gc(bench)
        assert there(bench) == {"weights", "middle", "top"}
        reasons = {fate.path.name[33:]: fate.reason for fate in done.kept}
        assert reasons == {
            "top": f"rooted by {tmp_path}/result",
            "middle": "needed by top",
            "weights": "needed by middle",
        }
        (tmp_path / "result").unlink()
        assert len(gc(bench).removed) == 3

    def test_what_a_link_points_to_now(self, bench: Bench, three: dict[str, Realisation], tmp_path: Path) -> None:
        """Somebody moved the link by hand: what it shows is alive, what it was made for is not."""
        link = tmp_path / "result"
        link.unlink()
        link.symlink_to(bench.path(three["dead"]) / "own")
        gc(bench)
        assert there(bench) == {"dead"}

    def test_a_link_through_another_link(self, bench: Bench, three: dict[str, Realisation], tmp_path: Path) -> None:
        (tmp_path / "hop").symlink_to(bench.path(three["dead"]))
        (tmp_path / "result").unlink()
        (tmp_path / "result").symlink_to("hop")
        gc(bench)
        assert there(bench) == {"dead"}

    @pytest.mark.parametrize("kind", ["gone", "file", "elsewhere", "folder gone"])
    def test_a_root_that_is_none_any_more(self, bench: Bench, tmp_path: Path, kind: str) -> None:
        place = tmp_path / "project"
        place.mkdir()
        bench.store.add_root(place / "result", bench.make(ENGINE).key)
        (place / "result").unlink()
        match kind:
            case "file":
                (place / "result").write_text("mine")
            case "elsewhere":
                (place / "result").symlink_to(tmp_path)
            case "folder gone":
                place.rmdir()
        gc(bench)
        assert there(bench) == set()

    def test_an_unreadable_link_is_live(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that fails, or a folder that we may not enter: nobody can say that the link is gone."""
        bench.store.add_root(tmp_path / "result", bench.make(ENGINE).key)
        (tmp_path / "result").unlink()
        real = os.readlink

        def fail(path: str, **options: Any) -> str:
            if path == str(tmp_path / "result"):
                raise PermissionError(13, "Permission denied", path)
            return real(path, **options)

        monkeypatch.setattr(os, "readlink", fail)
        gc(bench)
        assert there(bench) == {"engine"}

    def test_a_moved_store_keeps_its_roots(self, bench: Bench, tmp_path: Path) -> None:
        bench.store.add_root(tmp_path / "result", bench.make(ENGINE).key)
        os.rename(bench.store.root, tmp_path / "moved")
        moved = Bench(Store.open(tmp_path / "moved"))
        gc(moved)
        assert there(moved) == {"engine"}

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"link": "/x"}', b'{"link": "/x", "key": "zz"}', b"\xff"])
    def test_a_root_record_that_cannot_be_read_stops_it(self, bench: Bench, tmp_path: Path, data: bytes) -> None:
        bench.make(ENGINE)
        (bench.store.root / "roots" / "bad").write_bytes(data)
        before = files_below(bench.store.root, ".")
        with pytest.raises(HermeticError) as caught:
            gc(bench)
        assert (caught.value.domain, caught.value.reason) == (Domain.STORE, "unreadable-root")
        assert str(bench.store.root / "roots" / "bad") in caught.value.message
        assert files_below(bench.store.root, ".") == before
        assert bench.store.remove_root(bench.store.root / "roots" / "bad")
        assert len(gc(bench).removed) == 1

    def test_leases_of_living_runs_only(self, bench: Bench, script: Script) -> None:
        bench.make(ENGINE)
        with bench.store.begin() as run:
            run.lease([key_of("engine"), key_of("not yet made")])
            done = gc(bench)
            assert [fate.reason for fate in done.kept] == [f"leased by run {run.id}"]
        body = "run = Store.open(arguments[0]).begin(); run.lease([key_of('engine')]); os.kill(os.getpid(), 9)"
        script(body, bench.store.root, check=False)
        assert names(gc(bench).removed) == ["engine"]
        assert os.listdir(bench.store.root / "leases") == []

    def test_a_lease_that_cannot_be_read_stops_it(self, bench: Bench) -> None:
        bench.make(ENGINE)
        with bench.store.begin() as run:
            (bench.store.root / "leases" / run.id).write_bytes(b"zz\n")
            with pytest.raises(HermeticError) as caught:
                gc(bench)
            assert (caught.value.domain, caught.value.reason) == (Domain.STORE, "unreadable-lease")
        assert there(bench) == {"engine"}

    def test_a_record_that_cannot_be_read_is_left_to_repair(self, bench: Bench) -> None:
        record = bench.make(ENGINE)
        path = bench.store.root / "realisations" / record.key.hex[:2] / record.key.hex
        path.write_bytes(b"{")
        done = gc(bench)
        assert [(fate.path, fate.removed) for fate in done.fates] == [(path, False)]
        assert there(bench) == {"engine"}

    def test_staged_files_outlive_the_path_they_came_from(self, bench: Bench, tmp_path: Path) -> None:
        """A build's inputs are hard links: what it is reading cannot go, whatever is collected."""
        record = bench.make(ENGINE)
        os.link(bench.path(record) / "weights/rank0.engine", tmp_path / "staged")
        gc(bench)
        assert (tmp_path / "staged").read_bytes()[:4] == b"ftrt"
        assert files_below(bench.store.root, "blobs") != []
        (tmp_path / "staged").unlink()
        gc(bench)
        assert files_below(bench.store.root, "blobs") == []


class TestLeftovers:
    def test_an_output_without_a_record(self, bench: Bench) -> None:
        record = bench.make(ENGINE)
        os.unlink(bench.store.layout.record(record.key))
        planned = gc(bench, dry_run=True)
        assert there(bench) == {"engine"}
        done = gc(bench)
        assert (planned.freed, planned.removed) == (done.freed, done.removed)
        assert done.freed == record.size - 2  # config.json and copy.json are one file
        assert there(bench) == set()
        assert files_below(bench.store.root, "trees", "blobs") == []

    def test_trash(self, bench: Bench) -> None:
        record = bench.make(ENGINE)
        os.unlink(bench.store.layout.record(record.key))
        os.rename(bench.path(record), bench.store.root / "trash" / "0123-engine")
        assert gc(bench).freed == record.size - 2
        assert os.listdir(bench.store.root / "trash") == []

    def test_manifests_and_blobs_that_nobody_needs(self, bench: Bench) -> None:
        bench.make(ENGINE)
        for folder in ("store", "realisations"):
            shutil.rmtree(bench.store.root / folder)
            (bench.store.root / folder).mkdir()
        assert gc(bench).fates == ()
        assert files_below(bench.store.root, "trees", "blobs") == []

    def test_workspaces_of_dead_runs(self, bench: Bench, script: Script) -> None:
        body = "run = Store.open(arguments[0]).begin(); run.workspace(); os.kill(os.getpid(), 9)"
        script(body, bench.store.root, check=False)
        assert os.listdir(bench.store.root / "tmp") != []
        gc(bench)
        assert os.listdir(bench.store.root / "tmp") == []


def attempt(bench: Bench, name: str, seconds: int, outcome: str = "exited", ago: int = 0) -> None:
    made = bench.store.start_attempt(key_of(name), name)
    path = made.folder / "record.json"
    made.finish(outcome)
    document = json.loads(path.read_bytes())
    start = document["started"] - ago
    path.write_text(json.dumps({**document, "started": start, "ended": start + seconds}))


class TestMakingRoom:
    @pytest.fixture
    def priced(self, bench: Bench) -> Bench:
        """1,000 bytes each: an engine of two hours, a conversion of a minute, and a download."""
        for name, seconds in (("engine", 7200), ("converted", 60)):
            bench.make({name: name[:1].encode() * 1000}, name)
            attempt(bench, name, 1, "failed")
            attempt(bench, name, seconds)
        bench.make({"weights": b"w" * 1000}, "weights")
        return bench

    @pytest.mark.parametrize(
        ("limit", "stay"),
        [
            (3000, {"engine", "converted", "weights"}),
            (2999, {"engine", "converted"}),
            (2000, {"engine", "converted"}),
            (1500, {"engine"}),
            (1000, {"engine"}),
            (1, set()),
        ],
    )
    def test_the_cheapest_for_its_size_goes_first(self, priced: Bench, limit: int, stay: set[str]) -> None:
        planned = gc(priced, max_size=limit, dry_run=True)
        done = gc(priced, max_size=limit)
        assert there(priced) == stay
        assert (planned.fates, planned.short) == (done.fates, 0)
        assert done.freed == 1000 * (3 - len(stay))

    def test_seconds_count_for_bytes_not_alone(self, bench: Bench) -> None:
        """A long build of much goes before a short one of little, if its bytes are cheaper to have back."""
        bench.make({"big": b"b" * 100_000}, "big")
        bench.make({"small": b"s" * 10}, "small")
        attempt(bench, "big", 100)
        attempt(bench, "small", 10)
        gc(bench, max_size=100_000)
        assert there(bench) == {"small"}

    def test_an_adopted_output_costs_what_its_origin_cost(self, bench: Bench) -> None:
        record = bench.make({"e": b"e" * 1000}, "engine")
        attempt(bench, "engine", 7200)
        with bench.store.begin() as run:
            run.adopt(record, key=key_of("twin"), name="twin", preimage={}, resolved=None)
        bench.make({"c": b"c" * 1000}, "cheap")
        attempt(bench, "cheap", 60)
        gc(bench, max_size=1000)
        assert there(bench) == {"engine", "twin"}

    def test_what_frees_nothing_is_kept(self, bench: Bench, tmp_path: Path) -> None:
        bench.make({"same": b"s" * 1000, "x": b"x" * 50}, "kept")
        bench.store.add_root(tmp_path / "result", key_of("kept"))
        bench.make({"same": b"s" * 1000}, "shares")
        bench.make({"other": b"o" * 100}, "other")
        done = gc(bench, max_size=1100)
        assert there(bench) == {"kept", "shares"}
        assert done.freed == 100

    def test_what_went_for_nothing_is_kept_after_all(self, bench: Bench) -> None:
        """Two halves of a shared file look cheap; when the bytes come from elsewhere, both stay."""
        bench.make({"same": b"s" * 1000}, "one")
        bench.make({"same": b"s" * 1000, "y": b"y"}, "two")
        bench.make({"big": b"b" * 3000}, "big")
        for name, seconds in (("one", 1), ("two", 600), ("big", 60)):
            attempt(bench, name, seconds)
        done = gc(bench, max_size=1500)
        assert there(bench) == {"one", "two"}
        assert done.freed == 3000

    def test_what_refers_goes_before_what_it_refers_to(self, bench: Bench) -> None:
        bench.make({"w": b"w" * 1000}, "weights")
        bench.make({"e": b"e" * 1000}, "engine", references=[key_of("weights")])
        attempt(bench, "engine", 7200)
        done = gc(bench, max_size=1500)
        assert names(done.removed) == ["engine"]
        assert there(bench) == {"weights"}

    def test_too_little_garbage(self, priced: Bench, tmp_path: Path) -> None:
        priced.store.add_root(tmp_path / "result", key_of("engine"))
        done = gc(priced, max_size=400)
        assert done.short == 600
        assert there(priced) == {"engine"}

    def test_free_space_counts(self, priced: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        status = os.statvfs(priced.store.root)
        free = status.f_bavail * status.f_frsize
        monkeypatch.setattr(os, "statvfs", lambda _: status)
        assert gc(priced, min_free=free).removed == ()
        assert len(gc(priced, min_free=free + 1500).removed) == 2
        assert there(priced) == {"engine"}

    def test_leftovers_count_as_room(self, priced: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        os.unlink(priced.store.layout.record(key_of("weights")))
        status = os.statvfs(priced.store.root)
        monkeypatch.setattr(os, "statvfs", lambda _: status)
        gc(priced, min_free=status.f_bavail * status.f_frsize + 1000)
        assert there(priced) == {"engine", "converted"}

    def test_both_limits(self, priced: Bench) -> None:
        gc(priced, min_free=1, max_size=2000)
        assert there(priced) == {"engine", "converted"}

    def test_a_long_chain_of_references(self, bench: Bench) -> None:
        before: list[Key] = []
        for number in range(50):
            bench.make({"n": b"%d" % number}, f"n{number}", references=before)
            before = [key_of(f"n{number}")]
        assert len(gc(bench, max_size=0).removed) == 50


class TestAge:
    DAY = 86400

    def age(self, bench: Bench, name: str, days: int) -> None:
        then = time.time() - days * self.DAY
        os.utime(bench.store.layout.record(key_of(name)), (then, then))

    def test_only_the_old_go(self, bench: Bench) -> None:
        bench.make({"o": b"old"}, "old")
        bench.make({"u": b"used"}, "used")
        bench.make({"y": b"young"}, "young", references=[key_of("used")])
        for name in ("old", "used"):
            self.age(bench, name, 40)
        done = gc(bench, older_than=30 * self.DAY)
        assert names(done.removed) == ["old"]
        assert {f.path.name[33:]: f.reason[:13] for f in done.kept} == {
            "young": "realised " + time.strftime("%Y"),
            "used": "needed by you",
        }

    def test_logs_go_with_it_but_the_price_of_what_stays(self, bench: Bench, tmp_path: Path) -> None:
        for name in ("kept", "dead"):
            bench.make({name: b""}, name)
            for outcome in ("failed", "exited", "exited"):
                attempt(bench, name, 5, outcome, ago=40 * self.DAY)
            self.age(bench, name, 40)
        attempt(bench, "dead", 5, "failed")
        running = bench.store.start_attempt(key_of("busy"), "busy")
        bench.store.add_root(tmp_path / "result", key_of("kept"))
        planned = gc(bench, older_than=30 * self.DAY, dry_run=True)
        assert len(bench.store.attempts(key_of("kept"))) == 3
        done = gc(bench, older_than=30 * self.DAY)
        assert planned.attempts == done.attempts == 5
        assert [a.outcome for a in bench.store.attempts(key_of("kept"))] == ["exited"]
        assert [a.outcome for a in bench.store.attempts(key_of("dead"))] == ["failed"]
        assert bench.store.attempts(key_of("busy")) == [running]


class TestWho:
    def test_only_the_owner_or_root(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        bench.make(ENGINE)
        monkeypatch.setattr(os, "geteuid", lambda: bench.store.root.stat().st_uid + 1)
        with pytest.raises(HermeticError) as caught:
            gc(bench)
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "not-the-owner")

    def test_an_ordinary_user_collects_their_own(self, shared_path: Path, script: Script) -> None:
        body = """
        from hermetic.store import Wishes
        bench = Bench(Store.open(arguments[0] + "/s"))
        bench.make(ENGINE); bench.make({"sub": {"file": b"x"}}, "other")
        bench.store.add_root(arguments[0] + "/result", key_of("other"))
        done = bench.store.collect(Wishes())
        print(len(done.removed), len(done.kept), *os.listdir(bench.store.root / "trash"), bench.store.verify())
        """
        assert script(body, shared_path, nobody=True).stdout == "1 1 []\n"
