"""What a wheel lock may hold, and what of it counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.fetch.wheel_lock import parse_lock

A, B = "a" * 64, "b" * 64

LOCK = f"""\
# This file was made by uv
numpy==2.1.0 ; python_version >= '3.11' \\
    --hash=sha256:{B} \\
    --hash=sha256:{A}
    # via something
torch==2.11.0+cpu --hash=sha256:{A}
"""


def test_pins_are_read() -> None:
    numpy, torch = parse_lock(LOCK, "x.lock").pins
    assert (numpy.name, numpy.version, numpy.marker) == ("numpy", "2.1.0", 'python_version >= "3.11"')
    assert numpy.hashes == (A, B)
    assert torch.version == "2.11.0+cpu"


def test_its_own_text_reads_as_itself() -> None:
    lock = parse_lock(LOCK, "x.lock")
    again = parse_lock(lock.text(), "again")
    assert again == lock
    assert again.digest == lock.digest


@pytest.mark.parametrize(
    "other",
    [
        LOCK.replace("# This file", "# Another file"),
        "\n".join(reversed(LOCK.replace(" \\\n   ", "").splitlines())),
        LOCK.replace("'", '"'),
        LOCK.replace("numpy", "NumPy"),
        LOCK.replace("\n", "\r\n"),
        f"{LOCK}\n\n",
    ],
    ids=["comment", "order", "quotes", "case", "line ends", "blank lines"],
)
def test_spelling_does_not_count(other: str) -> None:
    assert parse_lock(other, "other").digest == parse_lock(LOCK, "x").digest


@pytest.mark.parametrize(
    "other",
    [
        LOCK.replace("2.1.0", "2.1.1"),
        LOCK.replace("3.11", "3.12"),
        LOCK.replace(B, "c" * 64),
        LOCK.replace("torch", "torchx"),
        LOCK.partition("torch")[0],
    ],
    ids=["version", "marker", "hash", "name", "entry gone"],
)
def test_content_counts(other: str) -> None:
    assert parse_lock(other, "other").digest != parse_lock(LOCK, "x").digest


@settings(database=None)  # also where the checkout cannot be written
@given(st.permutations(range(5)))
def test_order_never_counts(order: list[int]) -> None:
    lines = [f"p{number}=={number} --hash=sha256:{number:064x}" for number in range(5)]
    assert parse_lock("\n".join(lines[each] for each in order), "x") == parse_lock("\n".join(lines), "x")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-e .", "lock-editable"),
        ("--editable ./x", "lock-editable"),
        ("--index-url https://index.example/simple", "lock-option"),
        ("-r other.txt", "lock-option"),
        (f"foo==1 --no-binary :all: --hash=sha256:{A}", "lock-option"),
        (f"foo @ https://example.org/foo-1-py3-none-any.whl --hash=sha256:{A}", "lock-url"),
        (f"git+https://example.org/foo --hash=sha256:{A}", "lock-url"),
        (f"./foo-1-py3-none-any.whl --hash=sha256:{A}", "lock-path"),
        (f"/srv/foo.whl --hash=sha256:{A}", "lock-path"),
        ("foo==1", "lock-hash-missing"),
        ("foo==1 --hash=md5:abc", "lock-hash-kind"),
        (f"foo==1 --hash=sha256:{A[:-1]}", "lock-hash-kind"),
        (f"foo>=1 --hash=sha256:{A}", "lock-unpinned"),
        (f"foo==1.* --hash=sha256:{A}", "lock-unpinned"),
        (f"foo --hash=sha256:{A}", "lock-unpinned"),
        (f"?! --hash=sha256:{A}", "lock-syntax"),
        (f"a==1 --hash=sha256:{A}", "lock-duplicate"),
    ],
)
def test_what_has_no_fixed_content_is_refused_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(HermeticError) as caught:
        parse_lock(f"# first\na==1 --hash=sha256:{A}\n{line}\n", "some.lock")
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, reason)
    assert caught.value.message.startswith("some.lock:3: ")


def test_the_same_package_for_different_platforms_is_no_duplicate() -> None:
    text = f"a==1 ; os_name == 'nt' --hash=sha256:{A}\na==2 ; os_name != 'nt' --hash=sha256:{B}\n"
    assert [pin.version for pin in parse_lock(text, "x").pins] in (["1", "2"], ["2", "1"])


def test_all_findings_come_together() -> None:
    with pytest.raises(HermeticErrors) as caught:
        parse_lock("foo==1\nbar==1\n", "x.lock")
    assert [error.reason for error in caught.value.errors] == ["lock-hash-missing"] * 2
    assert "x.lock:2:" in str(caught.value)
