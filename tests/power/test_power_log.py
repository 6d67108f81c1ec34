"""What a power loss may leave, by the rules of a disk with a write cache; and which promises hold when."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from power_claims import Claims
from power_log import FLUSH, MARK, SECTOR, WRITE, Images, Log, copy, encode

SIZE = 16 * SECTOR


class Recording:
    """A log made by hand, and the disk that it began with: all zeros."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[bytes] = []
        self.base = folder / "base"
        with open(self.base, "wb") as file:
            file.truncate(SIZE)

    def write(self, offset: int, data: bytes) -> Recording:
        self.parts.append(encode(WRITE, offset, len(data)) + data)
        return self

    def flush(self) -> Recording:
        self.parts.append(encode(FLUSH, 0, 0))
        return self

    def mark(self, data: bytes) -> Recording:
        self.parts.append(encode(MARK, 0, len(data)) + data)
        return self

    def log(self) -> Log:
        path = self.folder / "log"
        path.write_bytes(b"".join(self.parts))
        return Log(path)

    def after(self, position: int, fate: str, seed: int = 0) -> bytes:
        images = Images(self.log(), self.base, self.folder)
        return images.crash(position, fate, random.Random(seed)).read_bytes()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


@pytest.mark.parametrize("fate", ["all", "none", "writes", "sectors"])
def test_what_was_flushed_is_there(recording: Recording, fate: str) -> None:
    recording.write(0, b"a" * SECTOR).write(SECTOR, b"b" * SECTOR).flush()
    assert recording.after(3, fate)[: 2 * SECTOR] == b"a" * SECTOR + b"b" * SECTOR


def test_what_was_not_flushed_may_be_there(recording: Recording) -> None:
    recording.write(0, b"a" * SECTOR).flush().write(0, b"b" * SECTOR)
    assert recording.after(3, "none")[:SECTOR] == b"a" * SECTOR
    assert recording.after(3, "all")[:SECTOR] == b"b" * SECTOR
    assert {recording.after(3, "writes", seed)[:1] for seed in range(20)} == {b"a", b"b"}


def test_what_was_written_later_is_not_there(recording: Recording) -> None:
    recording.write(0, b"a" * SECTOR).flush().write(0, b"b" * SECTOR).flush()
    assert recording.after(2, "all")[:SECTOR] == b"a" * SECTOR
    assert recording.after(1, "none")[:SECTOR] == bytes(SECTOR)


def test_a_write_is_torn_between_sectors_only(recording: Recording) -> None:
    recording.write(512, b"x" * (3 * SECTOR))
    images = {recording.after(1, "sectors", seed) for seed in range(30)}
    assert len(images) > 3
    borders = [512, SECTOR, 2 * SECTOR, 3 * SECTOR, 3 * SECTOR + 512]
    for image in images:
        assert all(len(set(image[a:b])) == 1 for a, b in itertools.pairwise(borders))


def test_the_same_seed_gives_the_same_image(recording: Recording) -> None:
    recording.write(0, b"x" * SIZE)
    assert recording.after(1, "sectors", 7) == recording.after(1, "sectors", 7)
    assert recording.after(1, "sectors", 7) != recording.after(1, "sectors", 8)


def test_images_are_made_one_after_another(recording: Recording) -> None:
    recording.write(0, b"a").flush().write(1, b"b").flush().mark(b"here").write(2, b"c")
    images = Images(recording.log(), recording.base, recording.folder)
    chance = random.Random(0)
    assert images.crash(2, "none", chance).read_bytes()[:3] == b"a\0\0"
    assert images.crash(4, "none", chance).read_bytes()[:3] == b"ab\0"
    assert images.crash(6, "all", chance).read_bytes()[:3] == b"abc"


def test_marks_stand_where_they_were_made(recording: Recording) -> None:
    log = recording.write(0, b"a").mark(b"one").flush().mark(b"two").log()
    assert list(log.marks()) == [(2, b"one"), (4, b"two")]
    assert log.flushes() == 1


def test_a_copy_keeps_holes(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x" * 5000)
    copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 1 << 20


PATH = {"key": "k", "name": "n", "tree": "t"}
LINK = {"profile": "p", "link": "links/p", "target": "store/k-n", "promise": PATH}


def heard(*marks: tuple[object, ...]) -> Claims:
    """From ``(do, id, action)``, ``(end, id, paths, links)``, ``(touch, id, profile)``, ``(dead, pid)``."""
    claims = Claims()
    for do, *rest in marks:
        match do:
            case "begin":
                claims.hear({"do": do, "id": rest[0], "action": rest[1]})
            case "end":
                claims.hear({"do": do, "id": rest[0], "paths": rest[1], "links": rest[2]})
            case "touch":
                claims.hear({"do": do, "id": rest[0], "profile": rest[1]})
            case "dead":
                claims.hear({"do": do, "pid": rest[0]})
    return claims


class TestClaims:
    BUILT = (("begin", "1-a", "build"), ("end", "1-a", [PATH], []))
    LINKED = (("begin", "1-b", "link"), ("touch", "1-b", "p"), ("end", "1-b", [], [LINK]))

    def test_what_ended_is_promised(self) -> None:
        assert set(heard(*self.BUILT).paths) == {"k"}
        assert set(heard(*self.LINKED).links) == {"p"}

    def test_what_has_not_ended_is_not(self) -> None:
        assert heard(*self.BUILT[:1]).paths == {}
        assert heard(*self.LINKED[:2]).links == {}

    def test_a_collection_ends_promises_of_paths_from_its_beginning(self) -> None:
        after = heard(*self.BUILT, *self.LINKED, ("begin", "2-c", "gc"))
        assert after.paths == {}
        assert set(after.links) == {"p"}

    def test_what_ends_while_somebody_collects_is_not_promised(self) -> None:
        begin, end = self.BUILT
        assert heard(("begin", "2-c", "gc"), begin, end).paths == {}
        assert heard(begin, ("begin", "2-c", "gc"), ("end", "2-c", [], []), end).paths == {}
        assert set(heard(("begin", "2-c", "gc"), ("end", "2-c", [], []), begin, end).paths) == {"k"}

    def test_a_killed_collector_collects_no_more(self) -> None:
        assert set(heard(("begin", "2-c", "gc"), ("dead", 2), *self.BUILT).paths) == {"k"}

    def test_a_link_may_move_from_when_it_is_touched(self) -> None:
        assert heard(*self.LINKED, ("begin", "1-d", "prune"), ("touch", "1-d", "p")).links == {}
        other = [("begin", "2-d", "link"), ("touch", "2-d", "p")]
        assert heard(self.LINKED[0], *other, *self.LINKED[1:]).links == {}

    def test_they_outlive_the_boot(self) -> None:
        later = heard(*self.BUILT, *self.LINKED).after_the_crash()
        assert (set(later.paths), set(later.links)) == ({"k"}, {"p"})
