import os
import time

from hermetic.digest import hash_bytes
from hermetic.recipe.memo import Memo, is_settled, signature


def old(path, seconds: int = 10) -> None:
    """Pretend the file has been left alone; ctime cannot be set, so tests use `is_settled` for it."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_digest_is_remembered_only_when_the_file_is_settled(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    memo = Memo(str(tmp_path / "memo.json"))
    assert memo.blob(str(file))[0] == hash_bytes(b"one")
    memo.save()
    assert not (tmp_path / "memo.json").exists()
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later)
    memo.blob(str(file))
    memo.save()
    assert (tmp_path / "memo.json").exists()


def test_a_changed_file_is_hashed_again(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later)
    memo = Memo(str(tmp_path / "memo.json"))
    memo.blob(str(file))
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert memo.blob(str(file))[0] == hash_bytes(b"two")


def test_a_broken_memo_file_is_ignored(tmp_path) -> None:
    (tmp_path / "memo.json").write_text("[1]")
    file = tmp_path / "file"
    file.write_bytes(b"one")
    assert Memo(str(tmp_path / "memo.json")).blob(str(file))[1] == 3


def test_two_seconds_make_a_signature_believable(tmp_path) -> None:
    mark = signature(os.stat(tmp_path))
    newest = max(mark[3], mark[4])
    assert not is_settled(mark, newest + 1_999_999_999)
    assert is_settled(mark, newest + 2_000_000_000)
