"""Finding, rooting, locking, leasing: what a driver does all day."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_kit import ENGINE, REPOSITORY, Bench, Script, environment, fill, key_of, resolved_of, start_script

import hermetic.store
from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import Root, Store, peek, remove_tree
from hermetic.store.locks import is_held


def reason(call: object, *arguments: object) -> tuple[Domain, str]:
    with pytest.raises(HermeticError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.domain, caught.value.reason


class TestFinding:
    def test_by_every_name(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        record = bench.make(ENGINE)
        path = bench.path(record)
        bench.store.add_root(tmp_path / "result", record.key)
        (tmp_path / "again").symlink_to("result")
        monkeypatch.chdir(tmp_path)
        for name in (
            path, f"{path}/", path / "weights" / "rank0.engine", path.name, record.key.hex, record.key.hex[:7],
            record.key.base32, record.key.base32[:5], tmp_path / "result", "result", "./again", "result/weights",
        ):  # fmt: skip
            assert bench.store.find(str(name)) == record, name

    def test_unknown(self, bench: Bench, tmp_path: Path) -> None:
        record = bench.make(ENGINE)
        (tmp_path / "file").touch()
        for name in (
            "", "zz", "0" * 64, f"{record.key.base32}-other", str(tmp_path), str(tmp_path / "file"), "/", "nowhere",
            str(bench.store.root / "store"), str(bench.store.root / "realisations"), "engine",
        ):  # fmt: skip
            assert reason(bench.store.find, name) == (Domain.USAGE, "unknown-path"), name

    def test_ambiguous(self, bench: Bench) -> None:
        one, two = Key("ab" + "0" * 62), Key("ab" + "1" * 62)
        with bench.store.begin() as run:
            for key in (one, two):
                with run.workspace() as workspace:
                    out = fill(workspace.path / "out", {})
                    run.ingest(out, key=key, name="same", preimage={}, resolved=None)
        assert reason(bench.store.find, "ab") == (Domain.USAGE, "ambiguous-path")
        assert bench.store.find("ab0").key == one
        assert bench.store.find(two.base32).key == two

    def test_what_is_not_realised_is_not_found(self, bench: Bench) -> None:
        record = bench.make(ENGINE)
        (bench.store.root / "realisations" / record.key.hex[:2] / record.key.hex).unlink()
        assert reason(bench.store.find, record.key.hex) == (Domain.USAGE, "unknown-path")
        assert bench.store.realisation(record.key) is None
        assert bench.make(ENGINE).tree == record.tree

    def test_nothing_is_resolved_or_kept_at_first(self, store: Store) -> None:
        assert store.resolved(resolved_of("x")) == []
        assert store.preimage(key_of("x")) is None
        assert reason(store.manifest, hermetic.digest.TreeDigest("0" * 64)) == (Domain.STORE, "unknown-tree")

    def test_a_lost_output_resolves_nothing(self, bench: Bench) -> None:
        record = bench.make(ENGINE, resolved=resolved_of("x"))
        remove_tree(str(bench.path(record)))
        assert bench.store.resolved(resolved_of("x")) == []

    @pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "é", "x" * 212])
    def test_names_that_are_none(self, store: Store, name: str) -> None:
        assert reason(store.path, key_of("x"), name) == (Domain.RECIPE, "bad-name")

    def test_a_path(self, store: Store) -> None:
        assert store.path(Key("00" * 32), "engine") == store.root / "store" / ("a" * 32 + "-engine")


class TestPeek:
    def test_it_agrees_with_the_store(self, bench: Bench) -> None:
        record, root = bench.make(ENGINE), str(bench.store.root)
        assert peek.realised(root, record.key.hex, "engine")
        assert not peek.realised(root, record.key.hex, "other")
        assert not peek.realised(root, key_of("x").hex, "engine")
        remove_tree(str(bench.path(record)))
        assert not peek.realised(root, record.key.hex, "engine")
        assert not peek.realised(root + "/none", record.key.hex, "engine")

    def test_it_says_yes_while_a_run_of_this_boot_is_pending(self, bench: Bench) -> None:
        with bench.store.begin() as run:
            record = bench.put(run, ENGINE)
            assert peek.realised(str(bench.store.root), record.key.hex, "engine")

    def test_it_imports_nothing_heavy(self) -> None:
        code = "import sys; before = set(sys.modules); import hermetic.store.peek; print(*(set(sys.modules) - before))"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {code}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        loaded = set(done.stdout.split())
        assert {name for name in loaded if name.startswith("hermetic")} == {
            "hermetic", "hermetic.store", "hermetic.store.peek",
        }  # fmt: skip
        assert not loaded & {"json", "re", "typing", "pathlib", "blake3", "filelock", "dataclasses"}

    def test_opening_a_store_needs_no_heavy_module(self) -> None:
        code = "import hermetic.store.store, sys; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        )
        assert not set(done.stdout.split()) & {"pydantic", "click", "filelock", "rich", "asyncio"}


def test_the_room_exports_what_it_says() -> None:
    assert hermetic.store.__all__ == sorted(hermetic.store.__all__)
    for name in hermetic.store.__all__:
        assert getattr(hermetic.store, name).__name__ == name
    with pytest.raises(AttributeError):
        hermetic.store.nothing  # noqa: B018


class TestRoots:
    def test_a_link_is_made_switched_and_listed(self, bench: Bench, tmp_path: Path) -> None:
        one, two = bench.make({"a": b"1"}, "one"), bench.make({"a": b"2"}, "two")
        link = tmp_path / "result"
        bench.store.add_root(link, one.key)
        assert os.readlink(link) == str(bench.path(one))
        bench.store.add_root(link, two.key)
        assert (link / "a").read_bytes() == b"2"
        assert bench.store.roots() == [Root(link, two.key, current=True)]
        link.unlink()
        assert bench.store.roots() == [Root(link, two.key, current=False)]

    def test_one_place_is_one_root_however_it_is_spelt(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = bench.make({})
        (tmp_path / "real").mkdir()
        (tmp_path / "alias").symlink_to("real")
        monkeypatch.chdir(tmp_path / "real")
        for link in ("result", "./result", tmp_path / "alias" / "result", "../real/result"):
            bench.store.add_root(link, record.key)
        assert [root.link for root in bench.store.roots()] == [tmp_path / "real" / "result"]

    @pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling", "nix", "inside"])
    def test_what_is_no_link_into_a_store_is_not_replaced(self, bench: Bench, tmp_path: Path, kind: str) -> None:
        record, link = bench.make(ENGINE), tmp_path / "result"
        nix = tmp_path / "nix"
        match kind:
            case "file":
                link.write_text("mine")
            case "folder":
                link.mkdir()
            case "link":
                link.symlink_to(tmp_path)
            case "dangling":
                link.symlink_to("nowhere")
            case "nix":
                (nix / "store" / ("a" * 32 + "-x")).mkdir(parents=True)
                link.symlink_to(nix / "store" / ("a" * 32 + "-x"))
            case "inside":
                link.symlink_to(bench.path(record) / "weights")
        before = link.lstat()
        assert reason(bench.store.add_root, link, record.key) == (Domain.USAGE, "out-link-exists")
        assert link.lstat() == before
        assert bench.store.roots() == []

    def test_a_link_into_another_or_a_lost_store_is_replaced(self, bench: Bench, tmp_path: Path) -> None:
        record = bench.make({})
        other = Bench(Store.open(tmp_path / "other"))
        other.store.add_root(tmp_path / "result", other.make({}).key)
        bench.store.add_root(tmp_path / "result", record.key)
        (tmp_path / "lost").symlink_to(tmp_path / "gone" / "store" / ("a" * 32 + "-engine"))
        bench.store.add_root(tmp_path / "lost", record.key)
        assert {os.readlink(tmp_path / name) for name in ("result", "lost")} == {str(bench.path(record))}
        assert [root.current for root in other.store.roots()] == [False]

    def test_what_cannot_be_linked(self, bench: Bench, tmp_path: Path) -> None:
        record = bench.make({})
        assert reason(bench.store.add_root, tmp_path / "no" / "result", record.key) == (
            Domain.USAGE,
            "out-link-refused",
        )
        assert reason(bench.store.add_root, tmp_path / "result", key_of("x")) == (Domain.USAGE, "unknown-path")

    def test_odd_names_and_damaged_records(self, bench: Bench, tmp_path: Path) -> None:
        record = bench.make({})
        link = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9sultat\n"))
        bench.store.add_root(link, record.key)
        (bench.store.root / "roots" / "bad").write_text("{")
        assert [root.link for root in bench.store.roots()] == [link]


class TestLocks:
    def test_one_holder_at_a_time(self, store: Store) -> None:
        lock, other = store.lock(key_of("k")), store.lock(key_of("k"))
        assert lock.try_acquire()
        assert lock.held
        assert not other.try_acquire()
        assert store.lock(key_of("another")).try_acquire()
        lock.release()
        lock.release()
        with other:
            assert not lock.try_acquire()
        assert lock.try_acquire()
        with pytest.raises(RuntimeError):
            lock.try_acquire()

    def test_another_thread_may_release(self, store: Store) -> None:
        lock = store.lock(key_of("k"))
        assert lock.try_acquire()
        thread = threading.Thread(target=lock.release)
        thread.start()
        thread.join()
        assert store.lock(key_of("k")).try_acquire()

    def test_two_processes_build_one_key_once(self, store: Store) -> None:
        body = """
        bench = Bench(Store.open(arguments[0]))
        key = key_of("engine")
        with bench.store.begin() as run, bench.store.lock(key):
            if bench.store.realisation(key) is None:
                workspace = run.workspace()
                out = fill(workspace.path / "out", ENGINE)
                run.ingest(out, key=key, name="engine", preimage={}, resolved=None)
                print("built")
        """
        processes = [start_script(body, store.root) for _ in range(3)]
        results = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], results
        assert "".join(out for out, _ in results) == "built\n"
        assert store.verify() == []


class TestRuns:
    def test_leases_name_their_keys_while_the_run_lives(self, store: Store) -> None:
        run = store.begin()
        run.lease([key_of("a"), key_of("b")])
        run.lease([key_of("c")])
        path = store.root / "leases" / run.id
        assert path.read_text().split() == [key_of(name).hex for name in "abc"]
        assert is_held(str(path))
        store.begin().close()
        assert is_held(str(path))
        run.close()
        assert os.listdir(store.root / "leases") == []
        run.close()

    def test_a_run_that_builds_nothing_leaves_no_marker(self, store: Store) -> None:
        with store.begin() as run:
            run.lease([key_of("a")])
            assert os.listdir(store.root / "pending") == []

    def test_what_dead_runs_left_is_swept(self, store: Store, script: Script) -> None:
        body = """
        run = Store.open(arguments[0]).begin()
        run.lease([key_of("k")])
        fill(run.workspace().path / "out", {"a": {"b": b""}})
        run.workspace().close(keep=True)
        (Path(arguments[0]) / "tmp" / "f-0123").touch()
        os.kill(os.getpid(), 9)
        """
        assert script(body, store.root, check=False).returncode == -9
        assert len(os.listdir(store.root / "tmp")) == 4
        store.begin().close()
        assert os.listdir(store.root / "leases") == []
        (kept,) = store.kept()
        assert sorted(os.listdir(store.root / "tmp")) == [kept.name, f"{kept.name}.kept"]
        store.discard(kept)
        assert os.listdir(store.root / "tmp") == []

    def test_workspaces_go_with_their_run_unless_kept(self, store: Store) -> None:
        with store.begin() as run:
            one, two, three = run.workspace(), run.workspace(), run.workspace()
            assert os.listdir(one.path) == []
            assert one.path.stat().st_mode & 0o777 == 0o700
            two.close(keep=True)
            three.close()
            assert not three.path.exists()
        assert not one.path.exists()
        assert store.kept() == [two.path]
        assert two.path.is_dir()

    def test_a_workspace_used_as_a_context_goes_with_it(self, store: Store) -> None:
        with store.begin() as run:
            with run.workspace() as workspace:
                fill(workspace.path, {"a": b""})
            assert not workspace.path.exists()


def test_preimages_come_newest_first_and_outlive_their_outputs(bench: Bench) -> None:
    one, two = bench.make({}, "one"), bench.make({"a": b""}, "two")
    os.utime(bench.store.layout.preimage(one.key), (2, 2))
    os.utime(bench.store.layout.preimage(two.key), (1, 1))
    (bench.store.root / "derivations" / "stray").touch()
    (bench.store.root / "derivations" / one.key.hex[:2] / "stray").touch()
    os.unlink(bench.store.layout.record(one.key))
    assert list(bench.store.preimages()) == [(one.key, {"name": "one"}), (two.key, {"name": "two"})]
