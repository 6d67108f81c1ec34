"""Full disks, read-only file systems and failing ones: one clear error, nothing half-made, and the next run works."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_kit import ENGINE, Bench, fill, key_of, resolved_of

from hermetic.errors import Domain, HermeticError
from hermetic.store import Store, attempts, layout, pending, remove_tree
from hermetic.store.faults import explain


def state(root: Path) -> list[list[str]]:
    return [
        sorted(os.listdir(root / "store")),
        sorted(os.listdir(root / "tmp")),
        sorted(path.name for path in root.glob("realisations/*/*")),
        sorted(path.name for path in root.glob("blobs/*/*")),
    ]


def failure(call: Any, *arguments: Any, **options: Any) -> HermeticError | OSError | None:
    try:
        call(*arguments, **options)
    except (HermeticError, OSError) as error:
        return error
    return None


class Failing:
    """Makes the nth call that writes into the store fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, nth: int) -> None:
        self.left = nth
        self.code = code
        for name in ("write", "rename", "link", "mkdir", "symlink"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.ENOSPC, "store-full"), (errno.EDQUOT, "store-full"), (errno.EROFS, "store-read-only"), (errno.EIO, None)],
)
def test_whichever_write_fails_nothing_is_left(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str | None
) -> None:
    source = fill(tmp_path / "source", {**ENGINE, "sub": {"file": b"more"}})
    old = bench.make({"old": b"{}"}, "old")
    before = state(bench.store.root)
    for nth in range(1, 500):
        with monkeypatch.context() as patch, bench.store.begin() as run:
            run.mark()
            failing = Failing(patch, code, nth)
            error = failure(
                run.ingest, source, key=key_of("new"), name="new", preimage={"a": 1}, resolved=resolved_of("new")
            )
        if error is None:
            assert failing.left > 0
            break
        if isinstance(error, HermeticError):
            assert (error.domain, error.reason) == (Domain.ENVIRONMENT, reason)
            assert error.hint
        else:
            assert (error.errno, reason) == (code, None)
        assert state(bench.store.root) == before, f"after write number {nth}"
    assert nth > 20
    assert bench.store.realisation(old.key) == old
    assert bench.store.verify() == []


def test_the_same_for_an_adoption(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    record = bench.make(ENGINE)
    before = state(bench.store.root)
    for nth in range(1, 100):
        with monkeypatch.context() as patch, bench.store.begin() as run:
            run.mark()
            failing = Failing(patch, errno.ENOSPC, nth)
            error = failure(run.adopt, record, key=key_of("new"), name="new", preimage={}, resolved=resolved_of("new"))
        if error is None:
            assert failing.left > 0
            break
        assert isinstance(error, HermeticError)
        assert error.reason == "store-full"
        assert state(bench.store.root) == before, f"after write number {nth}"
    assert nth > 8
    assert bench.store.verify() == []


def test_the_message_says_how_much_is_left(tmp_path: Path) -> None:
    error = explain(OSError(errno.ENOSPC, "No space left on device"), str(tmp_path))
    assert error is not None
    assert "MB" in error.message
    assert explain(OSError(errno.EIO, "Input/output error"), str(tmp_path)) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench(Store.open(small_disk / "s"))
    big = fill(tmp_path / "big", {"weights": os.urandom(6 << 20)})
    many = fill(tmp_path / "many", {str(n): b"x" * n for n in range(300)})
    for source in (big, many):
        before = state(bench.store.root)
        with pytest.raises(HermeticError) as caught, bench.store.begin() as run:
            run.ingest(source, key=key_of("x"), name="x", preimage={}, resolved=None)
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "store-full")
        assert state(bench.store.root) == before
    assert bench.make({"small": b"fits"}).size == 4
    assert bench.store.verify() == []


def test_a_store_on_a_read_only_file_system_can_be_read(small_disk: Path) -> None:
    bench = Bench(Store.open(small_disk / "s"))
    record = bench.make({"small": b"fits"})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = Store.open(small_disk / "s")
    assert store.realisation(record.key) == record
    assert store.verify() == []
    for attempt in (store.begin, store.lock(record.key).try_acquire, lambda: store.start_attempt(record.key, "x")):
        with pytest.raises(HermeticError) as caught:
            attempt()
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "store-read-only")
    with pytest.raises(HermeticError) as caught:
        Store.open(small_disk / "new")
    assert caught.value.reason == "store-read-only"


def test_a_disk_that_fails_to_sync_leaves_the_marker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    run = bench.store.begin()
    record = bench.put(run, ENGINE)
    monkeypatch.setattr("hermetic.store.run.sync_file_system", fail)
    with pytest.raises(OSError, match="Input/output"):
        run.close()
    assert bench.store.pending.of_this_boot() == [record.run]
    assert os.listdir(bench.store.root / "leases") == []
    run.close()


def test_sync_reports_what_the_system_says(tmp_path: Path) -> None:
    pending.sync_file_system(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        pending.sync_file_system(str(tmp_path / "nowhere"))


class TestRemoval:
    """Whatever a build left can be removed."""

    def test_nothing_there(self, tmp_path: Path) -> None:
        remove_tree(str(tmp_path / "nothing"))

    def test_symlinks_are_not_followed(self, tmp_path: Path) -> None:
        precious = fill(tmp_path / "precious", {"file": b""})
        tree = fill(tmp_path / "tree", {"sub": {}})
        (tree / "sub" / "link").symlink_to(precious)
        (tree / "link").symlink_to(precious)
        remove_tree(str(tree))
        (tmp_path / "top").symlink_to(precious)
        remove_tree(str(tmp_path / "top"))
        assert os.listdir(tmp_path) == ["precious"]
        assert os.listdir(precious) == ["file"]

    def test_deep_wide_and_closed(self, tmp_path: Path) -> None:
        descriptor = os.open(fill(tmp_path / "tree", {}), os.O_RDONLY)
        for level in range(3000):
            os.mkdir("d", dir_fd=descriptor)
            if level % 500 == 0:
                os.mkfifo("pipe", dir_fd=descriptor)
                os.mkdir("closed", 0, dir_fd=descriptor)
            inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        os.close(descriptor)
        remove_tree(str(tmp_path / "tree"))
        assert os.listdir(tmp_path) == []

    def test_an_ordinary_user_can_remove_their_own(self, shared_path: Path, script: Any) -> None:
        body = """
        tree = fill(Path(arguments[0]) / "tree", {"a": {"b": {"c": {}}, "file": b""}, "e": {}})
        for name, mode in (("a/b/c", 0), ("a/b", 0o500), ("a", 0o111), ("e", 0), ("", 0)): (tree / name).chmod(mode)
        remove_tree(str(tree)); print(os.listdir(arguments[0]))
        """
        assert script(body, shared_path, nobody=True).stdout == "[]\n"


class TestAttempts:
    def test_an_attempt_is_recorded_from_start_to_end(self, store: Store) -> None:
        attempt = store.start_attempt(key_of("k"), "engine", stage="engine")
        attempt.log.write_text("building\n")
        (seen,) = store.attempts(key_of("k"))
        assert (seen.outcome, seen.ended, seen.status, seen.interrupted) == ("running", 0, None, False)
        ended = attempt.finish("crashed", status=1, peak=3)
        assert store.attempts(key_of("k")) == [ended]
        assert (ended.outcome, ended.status, ended.extra) == ("crashed", 1, {"stage": "engine", "peak": 3})
        assert ended.started <= ended.ended
        assert ended.log.read_text() == "building\n"

    def test_the_newest_comes_first(self, store: Store) -> None:
        made = [store.start_attempt(key_of("k"), "engine") for _ in range(3)]
        store.start_attempt(key_of("other"), "engine")
        assert [attempt.id for attempt in store.attempts(key_of("k"))] == [a.id for a in reversed(made)]
        assert store.attempts(key_of("nothing")) == []

    def test_a_driver_that_died_is_told_from_one_that_works(self, store: Store, script: Any) -> None:
        body = "Store.open(arguments[0]).start_attempt(key_of('k'), 'engine'); os.kill(os.getpid(), 9)"
        script(body, store.root, check=False)
        (dead,) = store.attempts(key_of("k"))
        assert dead.interrupted
        assert not dead.finish("crashed").interrupted

    def test_another_boots_attempt_is_over(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        attempt = store.start_attempt(key_of("k"), "engine")
        monkeypatch.setenv("HERMETIC_TEST_BOOT_ID", "two")
        assert attempt.interrupted

    @pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff"])
    def test_a_record_that_cannot_be_read_is_left_out(self, store: Store, data: bytes) -> None:
        attempt = store.start_attempt(key_of("k"), "engine")
        (attempt.folder / "record.json").write_bytes(data)
        assert store.attempts(key_of("k")) == []
        assert attempts.find(layout.Layout(str(store.root)), "none") is None
