"""Several users through a group: all read and add, the owner and root collect."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_checker import violations
from store_kit import TEAM, start_script

from hermetic.store import Store, Wishes, remove_tree

OWNER, MEMBER = 64201, 64202
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")

ADD = """
os.umask({umask})
bench = Bench(Store.open(arguments[0]))
for name in arguments[1:]:
    tree = {{"same": b"s" * 1000, "own": name.encode(), "sub": {{"file": name.encode()}}}}
    made = bench.make(tree, name, resolved=resolved_of("shared"))
    bench.store.start_attempt(made.key, name).finish("exited")
    assert (bench.path(made) / "sub" / "file").read_bytes() == name.encode()
assert bench.store.verify() == []
print(*sorted(record.name for record in bench.store.records()))
"""
COLLECT = """
from hermetic.errors import HermeticError
from hermetic.store import Wishes
try:
    for fate in Store.open(arguments[0]).collect(Wishes()).fates: print(fate.path.name[33:], fate.removed, fate.reason)
except HermeticError as error: print(error.reason)
"""


def run(body: str, member: int, *arguments: object) -> str:
    process = start_script(body, *arguments, member=member)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def team() -> Iterator[Path]:
    """What an administrator prepares: a folder of the group's, set-group-id and writable for it."""
    path = Path(tempfile.mkdtemp(prefix="hermetic-team-"))
    os.chown(path, OWNER, TEAM)
    path.chmod(0o2775)
    yield path
    remove_tree(str(path))


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_members_add_and_read(team: Path, umask: int) -> None:
    add = ADD.format(umask=umask)
    root = team / "store"
    assert run(add, OWNER, root, "one", "two") == "one two\n"
    assert run(add, MEMBER, root, "three", "one") == "one three two\n"
    assert run(add, OWNER, root, "three", "four") == "four one three two\n"
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and path.parts[-2] != "store")]
    outside = [path for path in folders if not path.is_relative_to(root / "store") or path == root / "store"]
    assert {(oct(path.stat().st_mode & 0o7777), path.stat().st_gid) for path in outside} == {("0o2775", TEAM)}
    assert violations(root) == []


def test_who_collects_what(team: Path) -> None:
    add = ADD.format(umask=0o022)
    run(add, OWNER, team, "mine", "also")
    run(add, MEMBER, team, "theirs")
    assert run(COLLECT, MEMBER, team) == "not-the-owner\n"
    assert sorted(run(COLLECT, OWNER, team).splitlines()) == [
        "also True nothing keeps it alive",
        "mine True nothing keeps it alive",
        f"theirs False belongs to user {MEMBER}, so only root can remove it",
    ]
    assert violations(team) == []
    assert len(Store.open(team).collect(Wishes()).removed) == 1
    assert violations(team, is_tidy=True) == []


def test_one_waits_for_the_other(team: Path) -> None:
    body = """
    bench = Bench(Store.open(arguments[0]))
    with bench.store.begin() as run, bench.store.lock(key_of("engine")):
        if bench.store.realisation(key_of("engine")) is None:
            out = fill(run.workspace().path / "out", ENGINE)
            run.ingest(out, key=key_of("engine"), name="engine", preimage={}, resolved=None)
            print("built")
    """
    run("Store.open(arguments[0])", OWNER, team)
    processes = [start_script(body, team, member=member) for member in (OWNER, MEMBER, OWNER, MEMBER)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, results
    assert "".join(out for out, _ in results) == "built\n"


def test_a_folder_that_is_nobody_elses_stays_private(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    assert {path.stat().st_mode & 0o7777 for path in store.root.iterdir() if path.is_dir()} == {0o755}
