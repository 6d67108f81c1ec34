import json
import struct
from pathlib import Path

import pytest

from hermetic.digest import TreeDigest, hash_bytes
from hermetic.realise.compare import Difference, differences
from hermetic.store.manifest import Entry, Manifest


def tree(root: Path, files: dict[str, bytes]) -> Manifest:
    root.mkdir()
    for name, data in files.items():
        (root / name).write_bytes(data)
    entries = [Entry(name, "file", False, len(data), hash_bytes(data)) for name, data in files.items()]
    return Manifest(TreeDigest("0" * 64), tuple(entries))


@pytest.fixture
def compare(tmp_path: Path):
    def compare(one: dict[str, bytes], other: dict[str, bytes]) -> list[Difference]:
        manifests = tree(tmp_path / "one", one), tree(tmp_path / "other", other)
        return list(differences(*manifests, tmp_path / "one", tmp_path / "other"))

    return compare


def safetensors(**tensors: bytes) -> bytes:
    header, data = {}, b""
    for name, value in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(value)], "data_offsets": [len(data), len(data) + len(value)]}
        data += value
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_equal_trees_have_no_difference(compare) -> None:
    assert compare({"a": b"x"}, {"a": b"x"}) == []


def test_added_and_gone(compare) -> None:
    assert [(d.path, d.what) for d in compare({"a": b""}, {"b": b""})] == [
        ("a", "only in the first"),
        ("b", "only in the second"),
    ]


def test_json_by_field(compare) -> None:
    one = json.dumps({"a": {"b": 1, "gone": 1}, "list": [1, 2]}).encode()
    other = json.dumps({"a": {"b": 2, "new": 1}, "list": [1, 3]}).encode()
    (found,) = compare({"c.json": one}, {"c.json": other})
    assert found.details == ("a.b: 1 became 2", "a.gone: gone", "a.new: added", "list[1]: 2 became 3")


def test_safetensors_by_tensor(compare) -> None:
    one = safetensors(same=b"\0" * 9, some=b"abcd", gone=b"1", grown=b"1")
    other = safetensors(same=b"\0" * 9, some=b"abXY", grown=b"12")
    (found,) = compare({"m.safetensors": one}, {"m.safetensors": other})
    assert found.details == ("gone: gone", "grown: U8[1] became U8[2]", "some: 2 of 4 bytes differ")


def test_other_files_by_the_first_byte_that_differs(compare) -> None:
    head = b"\0" * (1 << 20)
    (found,) = compare({"x": head + b"ab"}, {"x": head + b"ac"})
    assert found.details == (f"first difference at byte {(1 << 20) + 1}",)


@pytest.mark.parametrize("name", ["broken.json", "broken.safetensors"])
def test_a_file_that_is_not_what_its_name_says_is_no_crash(compare, name: str) -> None:
    (found,) = compare({name: b"{"}, {name: b"\xff" * 40})
    assert "cannot be read" in found.details[0]
