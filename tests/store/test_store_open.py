"""What is a store, what becomes one, and what is refused."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
from store_kit import ENGINE, Bench, Script, key_of

from hermetic.errors import Domain, HermeticError
from hermetic.store import Store, layout, remove_tree


def refused(root: Path, **options: bool) -> tuple[Domain, str]:
    with pytest.raises(HermeticError) as caught:
        Store.open(root, **options)
    assert caught.value.message
    return caught.value.domain, caught.value.reason


def test_a_new_store_has_its_format_and_folders(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "deep" / "store")
    assert (store.root / "format").read_bytes() == b"hermetic store 1\n"
    assert {path.name for path in store.root.iterdir()} == {"format", *layout.FOLDERS}


def test_the_format_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power loss could leave one that says nothing: a store that nobody can open again."""
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, (tmp_path / "s/format").exists())))
    Store.open(tmp_path / "s")
    assert ((tmp_path / "s/format").stat().st_ino, False) in synced


def test_an_empty_folder_becomes_a_store_and_opens_again(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    Store.open(tmp_path / "s")
    Store.open(tmp_path / "s", create=False)


def test_a_newer_store_is_refused_by_name(tmp_path: Path) -> None:
    Store.open(tmp_path / "s")
    (tmp_path / "s" / "format").write_text("hermetic store 2\n")
    assert refused(tmp_path / "s") == (Domain.ENVIRONMENT, "store-too-new")


@pytest.mark.parametrize("text", ["", "something else\n", "hermetic store one\n"])
def test_an_unknown_format_is_not_a_store(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text)
    assert refused(tmp_path) == (Domain.ENVIRONMENT, "not-a-store")


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert refused(tmp_path) == (Domain.ENVIRONMENT, "not-a-store")
    assert os.listdir(tmp_path) == ["photos"]


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file") == (Domain.ENVIRONMENT, "not-a-store")
    assert refused(tmp_path / "file" / "below") == (Domain.ENVIRONMENT, "not-a-store")


def test_nothing_is_made_without_create(tmp_path: Path) -> None:
    assert refused(tmp_path / "s", create=False) == (Domain.ENVIRONMENT, "store-missing")
    assert not (tmp_path / "s").exists()


def test_nfs_is_refused_at_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "filesystem_magic", lambda path: 0x6969)
    assert refused(tmp_path / "s") == (Domain.ENVIRONMENT, "store-on-nfs")


def test_the_kind_of_file_system_can_be_read() -> None:
    assert layout.filesystem_magic("/proc") == 0x9FA0


def test_without_permission_nothing_can_be_made(shared_path: Path, script: Script) -> None:
    body = """
    from hermetic.errors import HermeticError
    os.mkdir(arguments[0], 0o555)
    try: hermetic.store.Store.open(arguments[0] + "/s")
    except HermeticError as error: print(error.domain.value, error.reason)
    """
    assert script(body, shared_path / "closed", nobody=True).stdout == "environment store-read-only\n"


def test_who_may_not_write_can_still_read(shared_path: Path, script: Script) -> None:
    shared_path.chmod(0o755)
    record = Bench(Store.open(shared_path / "s")).make(ENGINE)
    for folder, _, _ in os.walk(shared_path / "s"):
        os.chmod(folder, 0o555)
    body = """
    from hermetic.errors import HermeticError
    store = hermetic.store.Store.open(arguments[0])
    print(store.find(arguments[1]).name, len(store.verify()))
    try: store.begin()
    except HermeticError as error: print(error.domain.value, error.reason)
    """
    done = script(body, shared_path / "s", record.key.hex, nobody=True)
    assert done.stdout == "engine 0\nenvironment store-read-only\n"


@pytest.mark.parametrize("point", ["create.after-unfinished", "create.after-folders", "create.after-format"])
def test_a_creation_that_was_killed_is_finished_by_the_next(tmp_path: Path, script: Script, point: str) -> None:
    root = tmp_path / "s"
    opening = "hermetic.store.Store.open(arguments[0])"
    done = script(opening, root, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert done.returncode == -9
    Store.open(root)
    assert not [name for name in os.listdir(root) if name.startswith(".")] or point == "create.after-format"


def test_many_may_create_it_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Store.open(tmp_path / "s")
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(os.listdir(tmp_path / "s")) == sorted(["format", *layout.FOLDERS])


def test_a_copied_store_works_and_names_nothing_of_the_old_place(bench: Bench, tmp_path: Path) -> None:
    record = bench.make(ENGINE)
    moved = tmp_path / "elsewhere" / "copy"
    moved.parent.mkdir()
    subprocess.run(["cp", "-a", bench.store.root, moved], check=True)
    old = os.fsencode(bench.store.root)
    remove_tree(str(bench.store.root))
    assert not [path for path in moved.rglob("*") if path.is_file() and old in path.read_bytes()]
    copy = Bench(Store.open(moved, create=False))
    assert copy.store.realisation(record.key) == record
    assert copy.store.verify() == []
    assert copy.make({"a": b"{}"}, "more").size == 2
    assert (copy.path(copy.store.find(key_of("more").hex)) / "a").stat().st_ino == (
        copy.path(record) / "config.json"
    ).stat().st_ino
