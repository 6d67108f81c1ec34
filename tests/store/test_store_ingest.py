"""What a tree looks like once it is in, and which trees never get there."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_kit import ENGINE, Bench, Link, Program, Script, fill, key_of, names_below, resolved_of

from hermetic.errors import Domain, HermeticError
from hermetic.store import Limits, Store, ingest
from hermetic.store.walk import unreadable

EPOCH = 315_532_800
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to change owners")


def metadata(path: Path) -> tuple[int, float]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_mtime


def refused(bench: Bench, tree: dict[str, Any] | Callable[[Path], object], **more: Any) -> HermeticError:
    """The error of an ingest that must leave nothing in the store and a workspace that can be removed."""
    before = _state(bench)
    with pytest.raises(HermeticError) as caught, bench.store.begin() as run:
        bench.put(run, tree, **more)
    assert _state(bench) == before
    assert bench.make({"fine": b""}, "next").size == 0
    assert caught.value.domain is Domain.BUILD
    return caught.value


def _state(bench: Bench) -> list[list[str]]:
    files = [path.name for path in (bench.store.root / "blobs").glob("*/*")]
    folders = ("store", "realisations", "derivations", "resolved", "tmp", "leases")
    return [sorted(files), *(sorted(os.listdir(bench.store.root / folder)) for folder in folders)]


def reason(bench: Bench, tree: dict[str, Any] | Callable[[Path], object], **more: Any) -> str:
    return refused(bench, tree, **more).reason


class TestAccepted:
    def test_the_record_says_what_came_in(self, bench: Bench) -> None:
        record = bench.make(
            ENGINE, resolved=resolved_of("x"), platform={"system": "x86_64-linux"}, impure=True, build="7"
        )
        assert bench.store.realisation(key_of("engine")) == record
        assert record.size == sum(len(v) for v in (b"{}", b"{}", b"#!/bin/sh\n")) + 2 * (4 + (5 << 20))
        assert (record.name, record.impure, record.build) == ("engine", True, "7")
        assert record.platform == {"system": "x86_64-linux"}
        assert bench.store.preimage(record.key) == {"name": "engine"}
        assert bench.store.resolved(resolved_of("x")) == [record.key]

    def test_modes_and_times_are_canonical(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            fill(out, ENGINE)
            (out / "config.json").chmod(0o4640)
            (out / "run").chmod(0o6711)
            (out / "weights").chmod(0o2570)

        path = bench.path(bench.make(build))
        assert metadata(path) == (0o555, EPOCH)
        assert metadata(path / "weights") == (0o555, EPOCH)
        assert metadata(path / "config.json") == (0o444, EPOCH)
        assert metadata(path / "run") == (0o555, EPOCH)
        assert (path / "latest").lstat().st_mtime == EPOCH
        assert os.readlink(path / "latest") == "weights/rank0.engine"

    def test_the_tree_is_moved_not_copied(self, bench: Bench) -> None:
        inodes = []

        def build(out: Path) -> None:
            fill(out, {"big": bytes(1 << 20)})
            inodes.append((out / "big").stat().st_ino)

        assert [(bench.path(bench.make(build)) / "big").stat().st_ino] == inodes

    def test_a_tree_from_elsewhere_is_copied_and_left_alone(self, bench: Bench, tmp_path: Path) -> None:
        source = fill(tmp_path / "source", {**ENGINE, "hard": b"link"})
        os.link(source / "hard", source / "hard2")
        (source / "config.json").chmod(0o600)
        before = [(name, metadata(source / name)) for name in names_below(source)]
        with bench.store.begin() as run:
            record = run.ingest(source, key=key_of("s"), name="s", preimage={}, resolved=None)
        assert [(name, metadata(source / name)) for name in names_below(source)] == before
        assert bench.store.verify() == []
        assert bench.make({**ENGINE, "hard": b"link", "hard2": b"link"}).tree == record.tree

    def test_a_tree_on_another_file_system_is_copied(self, bench: Bench) -> None:
        shm = Path("/dev/shm")
        if not os.access(shm, os.W_OK) or shm.stat().st_dev == bench.store.root.stat().st_dev:
            pytest.skip("needs a second file system")
        source = shm / f"hermetic-{os.getpid()}"
        try:
            fill(source, ENGINE)
            with bench.store.begin() as run:
                record = run.ingest(source, key=key_of("s"), name="s", preimage={}, resolved=None)
        finally:
            shutil.rmtree(source)
        assert bench.make(ENGINE).tree == record.tree

    def test_an_empty_tree_is_an_output(self, bench: Bench) -> None:
        record = bench.make({})
        assert (record.size, os.listdir(bench.path(record))) == (0, [])
        assert bench.store.verify() == []

    def test_hard_links_inside_are_equal_files(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            fill(out, {"big": b"x" * (5 << 20), "small": b"s", "sub": {}})
            os.link(out / "big", out / "sub" / "big")
            os.link(out / "small", out / "sub" / "small")

        linked = bench.make(build)
        plain = bench.make(
            {"big": b"x" * (5 << 20), "small": b"s", "sub": {"big": b"x" * (5 << 20), "small": b"s"}}, "p"
        )
        assert linked.tree == plain.tree
        assert bench.store.verify() == []

    def test_a_hard_link_to_the_outside_is_cut(self, bench: Bench, tmp_path: Path) -> None:
        outside = tmp_path / "mine"
        outside.write_bytes(b"before")
        outside.chmod(0o600)
        path = bench.path(bench.make(lambda out: os.link(outside, out / "file")))
        outside.write_bytes(b"after!")
        assert (path / "file").read_bytes() == b"before"
        assert stat.S_IMODE(outside.stat().st_mode) == 0o600

    def test_equal_files_are_stored_once(self, bench: Bench) -> None:
        first, second = bench.path(bench.make(ENGINE)), bench.path(bench.make({"other": b"{}"}, "other"))
        inodes = {(first / "config.json").stat().st_ino, (first / "copy.json").stat().st_ino}
        assert inodes == {(second / "other").stat().st_ino}

    def test_an_executable_and_a_plain_file_stay_apart(self, bench: Bench) -> None:
        path = bench.path(bench.make({"a": b"same", "b": Program(b"same")}))
        assert metadata(path / "a")[0] == 0o444
        assert metadata(path / "b")[0] == 0o555

    def test_attributes_are_dropped(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            fill(out, {"file": b"x", "sub": {}})
            try:
                for path in (out, out / "file", out / "sub"):
                    os.setxattr(path, "user.note", b"hidden")
            except OSError:
                pytest.skip("needs extended attributes")

        path = bench.path(bench.make(build))
        assert [os.listxattr(p) for p in (path, path / "file", path / "sub")] == [[], [], []]

    @root_only
    def test_an_output_of_another_user_becomes_the_drivers(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            fill(out, ENGINE)
            for path in (out, *out.rglob("*")):
                os.chown(path, 65534, 65534, follow_symlinks=False)

        path = bench.path(bench.make(build))
        assert {(p.lstat().st_uid, p.lstat().st_gid) for p in (path, *path.rglob("*"))} == {
            (os.geteuid(), os.getegid())
        }

    def test_names_of_every_alphabet_and_unusual_links_are_fine(self, bench: Bench) -> None:
        tree = {
            "größe – 大きさ 🙂.txt": b"1", "-rf *": b"2", "x" * 255: b"3", "a\\b'\"": b"4",
            "d": {"e": {"up": Link("../../-rf *"), "round": Link("./../e/../../d"), "dangling": Link("nowhere")}},
        }  # fmt: skip
        record = bench.make(tree)
        assert bench.store.verify() == []
        assert {entry.path for entry in bench.store.manifest(record.tree).entries} == set(
            names_below(bench.path(record))
        )

    def test_a_link_to_a_declared_reference_is_fine(self, bench: Bench) -> None:
        base = bench.make({"lib": b"x"}, "base")
        target = f"../{base.key.base32}-base/lib"
        record = bench.make({"lib": Link(target)}, "user", references=[base.key])
        assert (bench.path(record) / "lib").read_bytes() == b"x"
        assert record.references == (base.key,)

    def test_progress_ends_at_the_size(self, bench: Bench) -> None:
        seen: list[tuple[int, int]] = []
        record = bench.make(ENGINE, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (record.size, record.size)
        assert seen == sorted(seen)

    def test_a_realised_key_keeps_its_output(self, bench: Bench) -> None:
        first = bench.make(ENGINE)
        assert bench.make({"other": b""}) == first

    def test_many_threads_share_one_run(self, bench: Bench) -> None:
        with bench.store.begin() as run:
            threads = [threading.Thread(target=bench.put, args=(run, ENGINE, f"e{n}")) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        found = [bench.store.realisation(key_of(f"e{n}")) for n in range(8)]
        assert len({record.tree for record in found if record is not None}) == 1
        assert None not in found
        assert len({(bench.path(r) / "weights/rank0.engine").stat().st_ino for r in found if r is not None}) == 1
        assert bench.store.verify() == []


class TestRefused:
    def test_fifo(self, bench: Bench) -> None:
        error = refused(bench, lambda out: os.mkfifo(out / "pipe"))
        assert (error.reason, error.data["path"]) == ("output-special-file", "pipe")

    def test_socket(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def build(out: Path) -> None:
            monkeypatch.chdir(out)  # a socket's address is short
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("s")

        assert reason(bench, build) == "output-special-file"

    @root_only
    def test_device(self, bench: Bench) -> None:
        assert reason(bench, lambda out: os.mknod(out / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))) == (
            "output-special-file"
        )

    @pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
    def test_unreadable_folder(self, bench: Bench, mode: int) -> None:
        def build(out: Path) -> None:
            fill(out, {"a": {"locked": {"file": b""}}})
            (out / "a" / "locked").chmod(mode)

        error = refused(bench, build)
        assert (error.reason, error.data["path"]) == ("output-unreadable", "a/locked")

    def test_unreadable_file(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            fill(out, {"secret": b""})
            (out / "secret").chmod(0)

        assert reason(bench, build) == "output-unreadable"

    def test_unreadable_top(self, bench: Bench) -> None:
        assert reason(bench, lambda out: out.chmod(0)) == "output-unreadable"

    def test_unreadable_things_are_refused_and_removed_for_an_ordinary_user(
        self, shared_path: Path, script: Script
    ) -> None:
        body = """
        from hermetic.errors import HermeticError
        bench = Bench(Store.open(arguments[0]))
        def folder(out):
            fill(out, {"a": {"b": {"c": b""}, "d": b""}})
            (out / "a" / "b").chmod(0); (out / "a").chmod(0o500)
        def file(out): fill(out, {"a": b""}); (out / "a").chmod(0)
        def top(out): out.chmod(0)
        for build in (folder, file, top):
            try: bench.make(build)
            except HermeticError as error: print(error.reason, os.listdir(bench.store.root / "tmp"))
        print(bench.make(ENGINE).size > 0, bench.store.verify())
        """
        done = script(body, shared_path / "s", nobody=True)
        assert done.stdout == "output-unreadable []\n" * 3 + "True []\n"

    @root_only
    def test_an_ordinary_driver_says_that_an_output_is_not_its_own(self, shared_path: Path, script: Script) -> None:
        script("Store.open(arguments[0])", shared_path / "s", nobody=True)
        out = fill(shared_path / "s/tmp/made-by-root/out", {"a": b""})
        out.parent.chmod(0o777)
        body = """
        from hermetic.errors import HermeticError
        store = Store.open(arguments[0])
        run = hermetic.store.run.Run(store)
        try: run.ingest(Path(arguments[1]), key=key_of("x"), name="x", preimage={}, resolved=None)
        except HermeticError as error: print(error.reason)
        """
        assert script(body, shared_path / "s", out, nobody=True).stdout == "output-unreadable\n"

    def test_three_thousand_levels(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            descriptor = os.open(out, os.O_RDONLY)
            for _ in range(3000):
                os.mkdir("deep", dir_fd=descriptor)
                inner = os.open("deep", os.O_RDONLY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            os.close(descriptor)

        assert reason(bench, build) == "output-too-deep"

    def test_the_deepest_that_may_be(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            descriptor = os.open(out, os.O_RDONLY)
            for _ in range(256):  # 256 names of 200 bytes are far beyond PATH_MAX
                os.mkdir("d" * 200, dir_fd=descriptor)
                inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor))
            os.close(descriptor)

        record = bench.make(build)
        assert len(bench.store.manifest(record.tree).entries) == 257
        assert bench.store.verify() == []

    def test_too_many_files(self, tmp_path: Path) -> None:
        bench = Bench(Store.open(tmp_path / "s", limits=Limits(entries=10)))
        assert reason(bench, {str(n): b"" for n in range(11)}) == "output-too-many-files"
        assert bench.make({str(n): b"" for n in range(10)}, "ten").size == 0

    def test_a_huge_sparse_file(self, bench: Bench) -> None:
        def build(out: Path) -> None:
            with open(out / "hole", "wb") as file:
                file.truncate(3 << 40)

        assert reason(bench, build) == "output-too-large"

    @pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", b"bell\x07", b"\xc2\x85", b"\xed\xa0\x80"])
    def test_names(self, bench: Bench, name: bytes) -> None:
        def build(out: Path) -> None:
            os.close(os.open(os.fsencode(out) + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o644))

        error = refused(bench, build)
        assert error.reason == "output-name"
        assert error.message.isprintable()

    @pytest.mark.parametrize(
        "target", ["/etc/passwd", "..", "../x", "d/../../x", "up/../x", "missing/../x", "d/up/../x", "../../.."]
    )
    def test_symlinks_that_may_leave(self, bench: Bench, target: str) -> None:
        tree = {"d": {"up": Link("..")}, "up": Link("d"), "bad": Link(target)}
        error = refused(bench, tree)
        assert (error.reason, error.data["path"]) == ("output-symlink-escapes", "bad")

    def test_a_symlink_to_an_undeclared_path(self, bench: Bench) -> None:
        tree = {"lib": Link(f"../{key_of('base').base32}-base/lib")}
        assert reason(bench, tree) == "output-symlink-escapes"
        assert reason(
            bench, {"x": Link(f"../{key_of('base').base32}-b/../../realisations")}, references=[key_of("base")]
        ) == ("output-symlink-escapes")

    def test_no_output_and_no_folder(self, bench: Bench) -> None:
        assert reason(bench, lambda out: out.rmdir()) == "output-missing"

        def file(out: Path) -> None:
            out.rmdir()
            out.write_bytes(b"")

        assert reason(bench, file) == "output-not-folder"

        def link(out: Path) -> None:
            out.rmdir()
            out.symlink_to("/etc")

        assert reason(bench, link) == "output-not-folder"
        assert os.listdir("/etc")

    def test_a_file_that_changes_meanwhile(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        original = ingest.hash_and_scan

        def hash_then_write(descriptor: int, *more: Any, **options: Any) -> Any:
            hashed = original(descriptor, *more, **options)
            writer = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
            os.pwrite(writer, b"X", 0)
            os.utime(writer, ns=(1, 1))
            os.close(writer)
            return hashed

        with monkeypatch.context() as patch:
            patch.setattr(ingest, "hash_and_scan", hash_then_write)
            with pytest.raises(HermeticError) as caught:
                bench.make({"file": b"data"})
        assert caught.value.reason == "output-changed"

    def test_a_file_that_cannot_be_read(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> Any:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(ingest, "hash_and_scan", broken)
            with pytest.raises(HermeticError) as caught:
                bench.make({"sub": {"file": b"data"}})
        assert (caught.value.reason, caught.value.data["path"]) == ("output-unreadable", "sub/file")
        assert unreadable(b"x", OSError(5, "io")).domain is Domain.BUILD


class TestStorePaths:
    """An output in which ``/nix/store/`` or the store's own path occurs fails the build, naming file and offset."""

    @pytest.mark.parametrize("offset", [0, 1, 4090, (1 << 17) - 5, (1 << 20) - 5, (1 << 20), (2 << 20) - 10, 5 << 20])
    def test_found_at_every_place(self, bench: Bench, offset: int) -> None:
        error = refused(bench, {"sub": {"big": bytes(offset) + b"/nix/store/abc" + bytes(100)}})
        assert (error.reason, error.data["path"], error.data["offset"]) == ("output-store-path", "sub/big", offset)
        assert "sub/big" in error.message

    def test_the_stores_own_path(self, bench: Bench) -> None:
        assert reason(bench, {"a": f"x{bench.store.root}/store/abc".encode()}) == "output-store-path"

    def test_the_own_path_through_a_symlink(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "alias").symlink_to("real")
        bench = Bench(Store.open(tmp_path / "alias" / "s"))
        for place in ("real", "alias"):
            assert reason(bench, {"a": f"{tmp_path}/{place}/s/store/x".encode()}) == "output-store-path"

    def test_what_the_caller_forbids(self, bench: Bench) -> None:
        assert reason(bench, {"a": b"my /build/secret here"}, forbid=[b"/build/secret"]) == "output-store-path"

    def test_a_symlink_that_names_a_store(self, bench: Bench) -> None:
        assert reason(bench, {"a": Link("x/nix/store/abc")}) == "output-store-path"

    def test_near_misses_pass(self, bench: Bench) -> None:
        assert bench.make({"a": b"/nix/stor" + bytes(2 << 20) + b"e/", "b": b"nix/store"}).size > 0

    def test_what_comes_from_outside_may_say_what_it_likes(self, bench: Bench) -> None:
        tree = {"a": b"/nix/store/x", "b": b"secret", "c": Link("x/nix/store/")}
        assert reason(bench, tree, verbatim=True, forbid=[b"secret"]) == "output-store-path"
        assert bench.make(tree, "other", verbatim=True).size == 18
