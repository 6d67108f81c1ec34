"""Manifests and tree digests, for any tree."""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from store_kit import Bench, Link, Program, digest_of, fill

from hermetic import canonical
from hermetic.digest import TreeDigest, hash_bytes
from hermetic.store import Limits, Store, manifest, remove_tree
from hermetic.store.hashing import Needles, hash_and_scan
from hermetic.store.walk import survey

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))
leaves = st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(Program), names.map(Link))
trees = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda inner: st.dictionaries(names, st.one_of(leaves, inner), max_size=4),
    max_leaves=12,
)
ours = settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def read(tree: dict[str, Any]) -> tuple[TreeDigest, bytes]:
    """Digest and manifest of a tree as the store computes them, without storing it."""
    folder = tempfile.mkdtemp()
    try:
        fill(Path(folder), tree)
        top = os.open(folder, os.O_RDONLY)
        try:
            found = survey(top, Limits())
            for inner, file in found.files():
                path = os.fsencode(folder) + b"/" + inner.inside(file.name)
                with open(path, "rb") as opened:
                    file.digest = hash_and_scan(opened.fileno(), file.size, Needles([])).digest
            digest = manifest.digest_folders(found)
            assert digest == digest_of(Path(folder))
            return digest, manifest.encode(found)
        finally:
            os.close(top)
    finally:
        remove_tree(folder)


class TestAnyTree:
    """A tree digest is Merkle: sorted entries (name bytes, type, executable bit, size, digest | symlink target)."""

    @ours
    @given(trees)
    def test_a_manifest_says_it_all_and_is_canonical(self, tree: dict[str, Any]) -> None:
        digest, data = read(tree)
        again = manifest.decode(data)
        assert again.tree == digest
        assert canonical.encode(json.loads(data)) == data

    @ours
    @given(trees, st.randoms(use_true_random=False))
    def test_the_order_of_making_does_not_matter(self, tree: dict[str, Any], random: Any) -> None:
        items = list(tree.items())
        random.shuffle(items)
        assert read(dict(items)) == read(tree)

    @ours
    @given(trees, st.data())
    def test_any_change_shows(self, tree: dict[str, Any], data: st.DataObject) -> None:
        assume(tree)
        name = data.draw(st.sampled_from(sorted(tree)))
        other = data.draw(names)
        value = tree[name]
        changes: list[dict[str, Any]] = [{k: v for k, v in tree.items() if k != name}]
        if other not in tree:
            changes.append({(other if k == name else k): v for k, v in tree.items()})
            changes.append({**tree, other: b""})
            changes.append({**tree, other: {}})
        match value:
            case bytes():
                changes += [{**tree, name: value + b"\0"}, {**tree, name: Program(value)}, {**tree, name: {}}]
            case Program():
                changes += [{**tree, name: value.data}, {**tree, name: Program(b"x" + value.data)}]
            case Link():
                changes += [{**tree, name: value.target.encode()}, {**tree, name: Link(value.target + "x")}]
            case _:
                changes += [{**tree, name: {"only": value}}, {**tree, name: b""}]
        digests = [read(change)[0] for change in (tree, *changes)]
        assert digests[0] not in digests[1:]


def test_the_longest_names_make_no_difference(bench: Bench) -> None:
    record = bench.make({"x" * 255: {"y" * 255: {"z" * 255: b""}}})
    assert bench.store.manifest(record.tree).entries[-1].path.count("/") == 2


class TestScanning:
    """Reading a file: `b3sum`, its length, and the first forbidden string wherever it lies."""

    @ours
    @given(
        st.integers(0, 3 << 20),
        st.sampled_from([b"/nix/store/", b"ab", b"x" * 300]),
        st.booleans(),
        st.integers(0, 64),
        st.booleans(),
    )
    def test_needle_in_zeros(self, offset: int, needle: bytes, present: bool, after: int, idle_core: bool) -> None:
        data = bytes(offset) + (needle if present else needle[:-1]) + bytes(after)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            needles = Needles([b"never there", needle])
            seen: list[int] = []
            found = hash_and_scan(file.fileno(), len(data), needles, seen.append, idle_core=idle_core)
        assert found.digest == hash_bytes(data)
        assert found.size == len(data) == sum(seen)
        assert found.hit == ((needle, offset) if present else None)

    @ours
    @given(
        st.integers(0, 40),
        st.sampled_from([b"/nix/st", b"/nix/store/", b"/a/store/of/23/letters/", b"/a/store/of/24/letters//", b"abc"]),
        st.integers(0, 40),
        st.integers(0, 9),
        st.lists(st.sampled_from([b"/nix", b"ix/s", b"/nix/sto", b"tore/", b"x", b"\0\0\0"]), max_size=12),
    )
    def test_memory_is_searched_as_bytes_find_does(self, before, needle, after, missing, noise) -> None:
        """At every alignment, with words that begin the needle all about, and when its end is missing."""
        data = bytes(before) + b"".join(noise) + needle[: len(needle) - missing] + bytes(after)
        around = bytes(4) + data + needle[-4:]
        memory = (ctypes.c_char * len(around)).from_buffer_copy(around)
        found = Needles([b"never there", needle]).find_at(ctypes.addressof(memory) + 4, len(data))
        offset = data.find(needle)
        assert found == ((needle, offset) if offset >= 0 else None)

    def test_no_needles(self) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(3 << 20))
            file.flush()
            assert hash_and_scan(file.fileno(), 3 << 20, Needles([])).digest == hash_bytes(bytes(3 << 20))

    def test_a_needle_is_not_found_in_what_was_read_before(self) -> None:
        # The overlap must never join the end of one piece with anything but the beginning of the next.
        data = b"/nix/stor" + bytes(1 << 20) + b"e/" + bytes(1 << 20)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            assert hash_and_scan(file.fileno(), len(data), Needles([b"/nix/store/"])).hit is None


def test_a_store_remembers_manifests_by_digest(tmp_path: Path) -> None:
    bench = Bench(Store.open(tmp_path / "s"))
    one, two = bench.make({"a": b"1"}, "one"), bench.make({"a": b"1"}, "two")
    assert one.tree == two.tree
    assert [path.name for path in (tmp_path / "s/trees").glob("*/*")] == [one.tree.hex]
    assert bench.store.manifest(one.tree).size == 1
