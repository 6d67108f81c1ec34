"""Importing: what its bytes are, called what it is called, and impure for ever."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import ENGINE, Bench, Link, Script, digest_of, fill, key_of

from hermetic.errors import Domain, HermeticError
from hermetic.store import Realisation, Store, Wishes, import_tree

IMPORT_MATRIX = ["import.after-copy", "ingest.after-survey", "ingest.after-files", "ingest.after-manifest",
                 "enter.after-rename", "enter.after-record", "close.after-sync"]  # fmt: skip
IMPORT = """
from hermetic.store import import_tree
with Store.open(arguments[0]).begin() as run: import_tree(run, Path(arguments[1]), "engine")
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return fill(tmp_path / "engine", {**ENGINE, "built-in": b"/nix/store/" + b"0" * 32 + b"-x"})


def imported(store: Store, folder: Path, name: str = "engine") -> Realisation:
    with store.begin() as run:
        return import_tree(run, folder, name)


def test_it_is_copied_and_impure(bench: Bench, engine: Path) -> None:
    before = {path: path.lstat() for path in engine.rglob("*")}
    made = imported(bench.store, engine)
    assert made.impure
    assert made.tree == digest_of(engine)
    assert digest_of(bench.path(made)) == made.tree
    assert bench.store.preimage(made.key) == {"stage": "import", "name": "engine", "tree": made.tree.hex}
    assert {path: path.lstat()[:8] for path in before} == {path: status[:8] for path, status in before.items()}
    (engine / "config.json").write_text("changed")
    assert bench.store.verify() == []


def test_the_same_bytes_under_the_same_name_are_one(bench: Bench, engine: Path) -> None:
    made = imported(bench.store, engine)
    assert imported(bench.store, engine) == made
    assert imported(bench.store, engine, "other").key != made.key
    (engine / "config.json").write_text("changed")
    assert imported(bench.store, engine).key != made.key
    assert len(list(bench.store.records())) == 3


def test_what_is_built_from_it_is_impure(bench: Bench, engine: Path) -> None:
    made = imported(bench.store, engine)
    with bench.store.begin() as run:
        assert run.adopt(made, key=key_of("x"), name="x", preimage={}, resolved=None).impure


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"link": Link("/nix/store/somewhere")}, "output-symlink-escapes"),
        ({"link": Link("../up")}, "output-symlink-escapes"),
    ],
)
def test_what_may_not_enter(bench: Bench, tmp_path: Path, tree: dict[str, Link], reason: str) -> None:
    folder = fill(tmp_path / "bad", tree)
    with pytest.raises(HermeticError) as caught:
        imported(bench.store, folder)
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, reason)
    assert str(folder) in caught.value.message
    assert os.listdir(bench.store.root / "tmp") == []


@pytest.mark.parametrize(("name", "reason"), [("missing", "output-missing"), ("file", "output-not-folder")])
def test_what_is_no_folder(bench: Bench, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HermeticError) as caught:
        imported(bench.store, tmp_path / name)
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, reason)


def test_a_bad_name_is_refused_before_anything_is_read(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        imported(bench.store, tmp_path / "missing", "a/b")
    assert caught.value.reason == "bad-name"


def test_it_goes_last_when_room_is_made(bench: Bench, engine: Path) -> None:
    """Hermetic cannot bring it back, so whatever it can bring back goes before."""
    made = imported(bench.store, engine)
    bench.make({"built": b"b" * 1000}, "built")
    bench.store.start_attempt(key_of("built"), "built").finish("exited")
    bench.store.collect(Wishes(max_size=made.size))
    assert list(bench.store.records()) == [made]


@pytest.mark.parametrize("point", IMPORT_MATRIX)
def test_killed_at_any_point_the_next_import_finishes(bench: Bench, engine: Path, script: Script, point: str) -> None:
    killed = script(IMPORT, bench.store.root, engine, env={"HERMETIC_TEST_SYNC": f"{point}:kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert violations(bench.store.root) == []
    script(IMPORT, bench.store.root, engine)
    assert violations(bench.store.root) == []
    assert [record.tree for record in bench.store.records()] == [digest_of(engine)]
    assert os.listdir(bench.store.root / "tmp") == []
