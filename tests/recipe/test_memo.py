import json
import os
import time

from hermetic.digest import hash_bytes
from hermetic.recipe import memo as memos
from hermetic.recipe.memo import Memo, is_settled, signature

ONE, TWO = b"one" * 20_000, b"two" * 20_000  # large enough to be worth remembering


def old(path, seconds: int = 10) -> None:
    """Pretend the file has been left alone; ctime cannot be set, so tests use `is_settled` for it."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_digest_is_remembered_only_when_the_file_is_settled(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(ONE)
    memo = Memo(str(tmp_path / "memo.json"))
    assert memo.blob(str(file))[0] == hash_bytes(ONE)
    memo.save()
    assert not (tmp_path / "memo.json").exists()
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later)
    memo.blob(str(file))
    memo.save()
    assert (tmp_path / "memo.json").exists()


def test_a_changed_file_is_hashed_again(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(ONE)
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later)
    memo = Memo(str(tmp_path / "memo.json"))
    memo.blob(str(file))
    file.write_bytes(TWO)
    os.utime(file, ns=(1, 1))
    assert memo.blob(str(file))[0] == hash_bytes(TWO)


def test_a_broken_memo_file_is_ignored(tmp_path) -> None:
    (tmp_path / "memo.json").write_text("[1]")
    file = tmp_path / "file"
    file.write_bytes(ONE)
    assert Memo(str(tmp_path / "memo.json")).blob(str(file))[1] == len(ONE)


def test_two_seconds_make_a_signature_believable(tmp_path) -> None:
    mark = signature(os.stat(tmp_path))
    newest = max(mark[3], mark[4])
    assert not is_settled(mark, newest + 1_999_999_999)
    assert is_settled(mark, newest + 2_000_000_000)


def test_what_is_quicker_hashed_than_read_back_is_not_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HERMETIC_TEST_SETTLED", "1")
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * 1000)
    large.write_bytes(ONE)
    memo = Memo(str(tmp_path / "memo.json"))
    for file in (small, large):
        assert memo.blob(str(file))[0] == hash_bytes(file.read_bytes())
    memo.save()
    assert list(json.loads((tmp_path / "memo.json").read_text())) == [str(large)]


def test_the_file_does_not_grow_for_ever(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HERMETIC_TEST_SETTLED", "1")
    monkeypatch.setattr(memos, "_MOST", 2)
    for number in range(4):
        (tmp_path / str(number)).write_bytes(ONE)
        memo = Memo(str(tmp_path / "memo.json"))
        memo.blob(str(tmp_path / str(number)))
        memo.save()
    assert list(json.loads((tmp_path / "memo.json").read_text())) == [str(tmp_path / "2"), str(tmp_path / "3")]
