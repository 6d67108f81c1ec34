"""Profiles: one link, a history behind it, and a way back that is looked at before it is taken."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import ENGINE, Bench, Script, fill, frozen, key_of, start_script

from hermetic.errors import Domain, HermeticError
from hermetic.store import Generation, Profile, Realisation, Store, Wishes, remove_tree

LINK_MATRIX = [
    "write.after-temporary", "link.after-generation", "root.after-temporary", "link.after-link",
]  # fmt: skip
PRUNE_MATRIX = ["profile.after-prune", "profile.after-prune#2"]
SWITCH = "Store.open(arguments[0]).profile('qwen3').switch(key_of(arguments[2]), arguments[1], cause='test')"
ROLLBACK = "Store.open(arguments[0]).profile('qwen3').rollback()"


@pytest.fixture
def engines(bench: Bench) -> dict[str, Realisation]:
    return {name: bench.make({"rank0.engine": name.encode(), **ENGINE}, name) for name in ("one", "two", "three")}


@pytest.fixture
def profile(bench: Bench, engines: dict[str, Realisation]) -> Profile:
    return bench.store.profile("qwen3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "trtllm-engines"


def shown(folder: Path) -> str:
    return (folder / "qwen3" / "rank0.engine").read_text()


def refused(call: object, *arguments: object, **options: object) -> tuple[Domain, str]:
    with pytest.raises(HermeticError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert caught.value.hint or caught.value.reason == "no-folder"
    return caught.value.domain, caught.value.reason


class TestSwitching:
    def test_every_switch_is_a_generation_and_a_root(self, bench: Bench, profile: Profile, folder: Path) -> None:
        for number, name in enumerate(("one", "two"), start=1):
            made = profile.switch(key_of(name), folder, cause=f"try {name}")
            assert (made.number, made.previous, made.cause) == (number, number - 1, f"try {name}")
            assert shown(folder) == name
            assert os.readlink(folder / "qwen3") == str(bench.store.path(key_of(name), name))
        assert profile.current() == made
        assert [profile.name for profile in bench.store.profiles()] == ["qwen3"]
        done = bench.store.collect(Wishes())
        assert {fate.path.name[33:]: fate.reason for fate in done.kept} == {
            "one": "generation 1 of profile qwen3",
            "two": "generation 2 of profile qwen3",
        }
        assert [fate.path.name[33:] for fate in done.removed] == ["three"]

    def test_what_is_shown_already_makes_no_generation(self, profile: Profile, folder: Path) -> None:
        first = profile.switch(key_of("one"), folder, cause="")
        assert profile.switch(key_of("one"), folder, cause="again") == first
        (folder / "qwen3").unlink()
        assert profile.current() is None
        assert profile.switch(key_of("one"), folder, cause="again") == first
        assert shown(folder) == "one"

    def test_back_and_forth_by_hand_is_history_too(self, profile: Profile, folder: Path) -> None:
        for name in ("one", "two", "one"):
            profile.switch(key_of(name), folder, cause="")
        assert [generation.number for generation in profile.history()] == [1, 2, 3]
        assert profile.current() == profile.history()[-1]

    def test_a_folder_outside(self, bench: Bench, profile: Profile, folder: Path, tmp_path: Path) -> None:
        outside = fill(tmp_path / "mine", {"rank0.engine": b"mine"})
        profile.switch(key_of("one"), folder, cause="")
        made = profile.switch(str(outside), folder, cause="")
        assert (made.target, shown(folder)) == (str(outside), "mine")
        assert profile.current() == made
        bench.store.collect(Wishes())
        assert profile.rollback().target == key_of("one")
        assert profile.rollback(2).target == str(outside)
        remove_tree(str(outside))
        profile.rollback(1)
        assert refused(profile.rollback, 2) == (Domain.STORE, "not-realised")
        assert refused(profile.switch, str(outside), folder, cause="") == (Domain.USAGE, "no-folder")
        assert shown(folder) == "one"

    @pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling", "inside"])
    def test_what_is_no_such_link_is_not_replaced(
        self, bench: Bench, profile: Profile, folder: Path, tmp_path: Path, kind: str
    ) -> None:
        folder.mkdir(parents=True)
        link = folder / "qwen3"
        match kind:
            case "file":
                link.write_text("mine")
            case "folder":
                link.mkdir()
            case "link":
                link.symlink_to(tmp_path)
            case "dangling":
                link.symlink_to("nowhere")
            case "inside":
                link.symlink_to(bench.store.path(key_of("one"), "one") / "weights")
        before = link.lstat()
        assert refused(profile.switch, key_of("one"), folder, cause="") == (Domain.USAGE, "link-exists")
        assert link.lstat() == before
        assert profile.history() == []

    @pytest.mark.parametrize("target", ["/nix/store/" + "0" * 32 + "-trtllm-engine-qwen3", "ours", "theirs"])
    def test_a_link_made_by_hand_is_taken_over(
        self, bench: Bench, profile: Profile, folder: Path, tmp_path: Path, target: str
    ) -> None:
        """As the documentation of earlier tools says: ``ln -s /nix/store/... ~/.cache/trtllm-engines/qwen3``."""
        folder.mkdir(parents=True)
        if target == "ours":
            target = str(bench.store.path(key_of("three"), "three"))
        elif target == "theirs":
            other = Bench(Store.open(tmp_path / "other"))
            target = str(other.path(other.make(ENGINE)))
        (folder / "qwen3").symlink_to(target)
        made = profile.switch(key_of("one"), folder, cause="")
        first, second = profile.history()
        assert (made, second.previous, first.cause) == (second, 1, "found in place")
        assert first.path(bench.store.layout) == target

    def test_another_place(self, profile: Profile, folder: Path, tmp_path: Path) -> None:
        profile.switch(key_of("one"), folder, cause="")
        assert refused(profile.switch, key_of("two"), tmp_path / "x", cause="") == (Domain.USAGE, "link-elsewhere")

    def test_what_cannot_be_linked(self, bench: Bench, profile: Profile, folder: Path, tmp_path: Path) -> None:
        assert refused(profile.switch, key_of("nothing"), folder, cause="") == (Domain.USAGE, "not-realised")
        (tmp_path / "file").touch()
        assert refused(profile.switch, key_of("one"), tmp_path / "file", cause="") == (Domain.USAGE, "link-refused")
        for name in ("", "a/b", "..", ".x", "-x", "x" * 212):
            assert refused(bench.store.profile, name) == (Domain.USAGE, "bad-profile-name")
        assert profile.history() == []


class TestRollback:
    @pytest.fixture
    def switched(self, profile: Profile, folder: Path) -> Profile:
        for name in ("one", "two", "three"):
            profile.switch(key_of(name), folder, cause="")
        return profile

    def test_to_the_one_before_and_further_back(self, switched: Profile, folder: Path) -> None:
        first = switched.rollback(cause="it was slow")
        assert (first.number, first.restores, first.previous, first.cause) == (4, 2, 3, "it was slow")
        assert shown(folder) == "two"
        second = switched.rollback()
        assert (second.number, second.restores, second.cause) == (5, 1, "rollback to 1")
        assert shown(folder) == "one"
        assert refused(switched.rollback) == (Domain.USAGE, "unknown-generation")
        assert switched.rollback(3).restores == 3
        assert shown(folder) == "three"

    def test_unknown(self, bench: Bench, switched: Profile) -> None:
        assert refused(switched.rollback, 9) == (Domain.USAGE, "unknown-generation")
        assert refused(bench.store.profile("other").rollback) == (Domain.USAGE, "unknown-profile")
        assert refused(bench.store.profile("other").prune, 1) == (Domain.USAGE, "unknown-profile")

    def test_to_what_is_damaged(self, bench: Bench, switched: Profile, folder: Path) -> None:
        path = bench.store.path(key_of("two"), "two") / "rank0.engine"
        path.chmod(0o644)
        path.write_bytes(b"TWO")
        path.chmod(0o444)
        os.utime(path, (315_532_800, 315_532_800))
        assert refused(switched.rollback) == (Domain.STORE, "corrupt")
        assert (shown(folder), len(switched.history())) == ("three", 3)

    def test_to_what_is_gone(self, bench: Bench, switched: Profile, folder: Path) -> None:
        os.unlink(bench.store.layout.record(key_of("two")))
        bench.store.collect(Wishes())
        assert refused(switched.rollback) == (Domain.STORE, "not-realised")
        assert (shown(folder), len(switched.history())) == ("three", 3)
        assert switched.rollback(1).restores == 1

    def test_pruning_keeps_the_newest_and_the_current(self, bench: Bench, switched: Profile, folder: Path) -> None:
        switched.rollback(1)
        (folder / "qwen3").unlink()
        (folder / "qwen3").symlink_to(bench.store.path(key_of("two"), "two"))
        assert [generation.number for generation in switched.prune(1)] == [1, 3]
        assert [generation.number for generation in switched.history()] == [2, 4]
        bench.store.collect(Wishes())
        assert {record.name for record in bench.store.records()} == {"one", "two"}

    def test_pruning_everything(self, bench: Bench, switched: Profile, folder: Path) -> None:
        (folder / "qwen3").unlink()
        assert len(switched.prune(0)) == 3
        assert bench.store.profiles() == []
        assert os.listdir(bench.store.root / "profiles") == []
        assert len(bench.store.collect(Wishes()).removed) == 3


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1}', b"\xff"])
def test_a_generation_that_cannot_be_read_stops_the_collector(
    bench: Bench, profile: Profile, folder: Path, data: bytes
) -> None:
    profile.switch(key_of("one"), folder, cause="")
    path = bench.store.root / "profiles" / "qwen3" / "1"
    good = path.read_bytes()
    path.write_bytes(data)
    for call in (bench.store.collect, lambda _: profile.history()):
        assert refused(call, Wishes()) == (Domain.STORE, "unreadable-root")
    path.write_bytes(good)
    assert len(bench.store.collect(Wishes()).removed) == 2


def test_what_a_generation_is_on_disk(bench: Bench, profile: Profile, folder: Path) -> None:
    made = profile.switch(key_of("one"), folder, cause="why")
    document = json.loads((bench.store.root / "profiles" / "qwen3" / "1").read_bytes())
    assert document == {
        "version": 1, "link": str(folder / "qwen3"), "key": key_of("one").hex, "name": "one", "previous": 0,
        "cause": "why", "when": made.when, "restores": 0,
    }  # fmt: skip
    assert profile.history() == [Generation(1, str(folder / "qwen3"), key_of("one"), "one", 0, "why", made.when)]


@pytest.mark.parametrize("point", LINK_MATRIX)
@pytest.mark.parametrize("body", [SWITCH, ROLLBACK], ids=["switch", "rollback"])
def test_killed_at_any_point_the_next_switch_finishes(
    bench: Bench, profile: Profile, folder: Path, script: Script, point: str, body: str
) -> None:
    """The link shows the old path or the new one, both stay, and there is one generation for one switch."""
    for name in ("two", "one"):
        profile.switch(key_of(name), folder, cause="")
    expected = "three" if body is SWITCH else "two"
    arguments = (bench.store.root, folder, "three")
    killed = script(body, *arguments, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert shown(folder) == (expected if point == "link.after-link" else "one")
    bench.store.collect(Wishes())
    assert violations(bench.store.root) == []
    if shown(folder) != expected and expected == "three" and point == "write.after-temporary":
        bench.make({"rank0.engine": b"three", **ENGINE}, "three")  # nothing kept it yet
    if shown(folder) != expected:
        script(body, *arguments)
    assert shown(folder) == expected
    assert [generation.number for generation in profile.history()] == [1, 2, 3]
    assert os.listdir(folder) == ["qwen3"]
    assert violations(bench.store.root) == []


@pytest.mark.parametrize("point", PRUNE_MATRIX)
def test_killed_while_pruning(bench: Bench, profile: Profile, folder: Path, script: Script, point: str) -> None:
    for name in ("one", "two", "three"):
        profile.switch(key_of(name), folder, cause="")
    body = "Store.open(arguments[0]).profile('qwen3').prune(1)"
    killed = script(body, bench.store.root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert shown(folder) == "three"
    profile.prune(1)
    assert [generation.number for generation in profile.history()] == [3]


@pytest.mark.parametrize("point", LINK_MATRIX)
def test_the_collector_comes_while_a_switch_stands_still(
    bench: Bench, profile: Profile, folder: Path, point: str
) -> None:
    profile.switch(key_of("one"), folder, cause="")
    with frozen(bench.store.root, point, SWITCH, folder, "two"):
        collector = start_script(
            "from hermetic.store import Wishes; Store.open(arguments[0]).collect(Wishes())", bench.store.root
        )
        assert shown(folder) in ("one", "two")
        # The switch holds the lock from its look at the path until the link stands.
        assert collector.poll() is None or point == "link.after-link"
    out = collector.communicate(timeout=60)
    assert collector.returncode == 0, out
    assert shown(folder) == "two"
    assert violations(bench.store.root, is_tidy=True) == []
    assert {record.name for record in bench.store.records()} == {"one", "two"}


def test_a_switch_waits_for_the_disk_when_its_path_may_not_be_on_it(bench: Bench, folder: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    synced: list[str] = []
    monkeypatch.setattr("hermetic.store.switching.sync_file_system", synced.append)
    with bench.store.begin() as run:
        record = bench.put(run, ENGINE)
        bench.store.profile("qwen3").switch(record.key, folder, cause="")
        assert synced == [str(bench.store.root)]
    bench.store.profile("other").switch(record.key, folder, cause="")
    assert len(synced) == 1
