import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermetic.digest import TreeEntry, hash_bytes, tree_digest
from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Memo, Source
from hermetic.recipe.source import hash_source
from hermetic.store import remove_tree


def refused(path: Path) -> str:
    with pytest.raises(HermeticError) as caught:
        hash_source(Source(path), Memo())
    assert caught.value.domain is Domain.RECIPE
    return caught.value.reason


def test_a_folder_is_its_merkle_tree(tmp_path) -> None:
    (tmp_path / "s" / "sub").mkdir(parents=True)
    (tmp_path / "s" / "a").write_bytes(b"one")
    (tmp_path / "s" / "sub" / "b").write_bytes(b"two")
    (tmp_path / "s" / "sub" / "b").chmod(0o755)
    (tmp_path / "s" / "link").symlink_to("sub/b")
    inner = tree_digest([TreeEntry(b"b", "file", True, 3, hash_bytes(b"two"))])
    expected = tree_digest(
        [
            TreeEntry(b"a", "file", False, 3, hash_bytes(b"one")),
            TreeEntry(b"sub", "dir", digest=inner),
            TreeEntry(b"link", "symlink", target=b"sub/b"),
        ]
    )
    assert hash_source(Source(tmp_path / "s"), Memo()) == expected


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_symlink_out_of_it_is_refused(tmp_path, target: str) -> None:
    (tmp_path / "s" / "sub").mkdir(parents=True)
    (tmp_path / "s" / "link").symlink_to(target)
    assert refused(tmp_path / "s") == "source-symlink-escapes"


def test_a_fifo_is_refused(tmp_path) -> None:
    (tmp_path / "s").mkdir()
    os.mkfifo(tmp_path / "s" / "fifo")
    assert refused(tmp_path / "s") == "source-special-file"
    assert refused(tmp_path / "s" / "fifo") == "source-special-file"


def test_a_source_that_has_gone_is_refused(tmp_path) -> None:
    (tmp_path / "s").write_text("")
    source = Source(tmp_path / "s")
    (tmp_path / "s").unlink()
    with pytest.raises(HermeticError) as caught:
        hash_source(source, Memo())
    assert caught.value.reason == "source-missing"


def test_an_unreadable_file_is_refused(tmp_path) -> None:
    (tmp_path / "s").mkdir(mode=0o755)
    (tmp_path / "s" / "secret").write_text("")
    (tmp_path / "s" / "secret").chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys\nfrom hermetic.recipe import Memo, Source\nfrom hermetic.recipe.source import hash_source\n"
        "source = Source('secret')\nos.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "source.path = 'secret'  # relative: the folders above may be closed to this user\n"
        "try: hash_source(source, Memo())\nexcept Exception as error: print(error.reason)"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    descriptor = os.open(tmp_path / "s", os.O_RDONLY)  # pytest's own folder may be closed to others
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=f"/proc/self/fd/{descriptor}",
        pass_fds=[descriptor],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(descriptor)
    assert done.stdout.strip() == "source-unreadable", done.stderr


def test_1200_levels_need_no_recursion(tmp_path) -> None:
    top = tmp_path / "s"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    assert hash_source(Source(top), Memo())
    remove_tree(str(top))  # deeper than pytest's own clean-up can go
