"""YAML that could hurt: refused by name, with the line, without time or memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from truss_corpus import cases

from hermetic.llm.truss.document import MOST_BYTES, MOST_LEVELS, MOST_NODES, Document, read
from hermetic.llm.truss.lint import lint


def document(text: str) -> Document:
    return read("config.yaml", text.encode())


def reasons(text: str) -> list[tuple[str, int]]:
    return [(item.code, item.line) for item in document(text).findings]


def test_values_are_what_pyyaml_reads() -> None:
    for case in cases():
        try:
            expected = yaml.safe_load(case.path.read_text("utf-8"))
        except yaml.YAMLError:
            expected = None
        assert repr(read("x", case.path.read_bytes()).data) == repr(expected), case.path.name  # NaN is not NaN


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(_VALUES)
def test_whatever_is_written_is_read(value: Any) -> None:
    found = read("x", yaml.safe_dump(value).encode())
    assert found.data == value
    assert found.findings == []


def test_every_value_has_its_line() -> None:
    found = document("a:\n  b:\n  - x\n  - c: 1\nd: {e: 2}\n")
    assert found.line(("a", "b", 1, "c")) == 4
    assert found.line(("a", "b", 0)) == 3
    assert found.line(("d", "e")) == 5
    assert found.line(("a", "missing")) == 1


def test_a_key_that_stands_twice_names_both_lines() -> None:
    (finding,) = document("a: 1\nb:\n  c: 1\n  c: 2\n").findings
    assert (finding.code, finding.where, finding.line) == ("duplicate-key", "b.c", 4)
    assert "line 3" in finding.message


def test_a_merged_key_may_be_said_again() -> None:
    found = document("base: &b {x: 1, y: 2}\nit: {<<: *b, x: 3}\n")
    assert found.findings == []
    assert found.data["it"] == {"x": 3, "y": 2}


def test_of_several_merged_mappings_the_first_wins() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nit: {<<: [*a, *b]}\n"
    assert document(text).data == yaml.safe_load(text)


def test_an_anchor_bomb_is_refused_before_it_is_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 40)]
    assert reasons("\n".join(lines)) == [("yaml-too-large", 1)]


def test_anchors_within_reason_are_written_out() -> None:
    assert document("a: &a [1, 2]\nb: [*a, *a]\n").data["b"] == [[1, 2], [1, 2]]


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "&a [*a]"])
def test_an_anchor_in_itself(text: str) -> None:
    assert [code for code, _ in reasons(text)] == ["yaml-syntax"]


@pytest.mark.parametrize("opener", ["[", "{a: ", "- "])
def test_nesting_without_end(opener: str) -> None:
    assert reasons(opener * 50_000)[0][0] in {"yaml-too-deep", "yaml-syntax"}
    assert document("[" * MOST_LEVELS + "]" * MOST_LEVELS).findings == []
    assert reasons("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1)) == [("yaml-too-deep", 1)]


def test_too_many_values_and_too_many_bytes() -> None:
    assert reasons("[&a [" + "1," * 1000 + "]" + ", *a" * (MOST_NODES // 1000) + "]") == [("yaml-too-large", 1)]
    assert read("x", b"a: " + b"x" * MOST_BYTES).findings[0].code == "yaml-too-large"


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!mine x", "!!python/tuple [1]"]
)
def test_tags_that_make_objects(value: str) -> None:
    assert reasons(f"a: 1\nb: {value}\n") == [("yaml-tag", 2)]


@pytest.mark.parametrize("text", ["? [1]\n: a", "? {a: 1}\n: b"])
def test_keys_that_are_no_values(text: str) -> None:
    assert [code for code, _ in reasons(text)] == ["yaml-tag"]


@pytest.mark.parametrize("data", [b"a: \xff\xfe", b"\x00", b"a: \x07", b"--- a\n--- b\n"])
def test_what_is_no_text_or_more_than_one_document(data: bytes) -> None:
    assert [item.code for item in read("x", data).findings] == ["yaml-syntax"]


@pytest.mark.parametrize("data", [b"", b"# only a comment\n", b"---\n", b"null\n"])
def test_nothing_at_all(data: bytes) -> None:
    found = read("x", data)
    assert (found.data, found.findings) == (None, [])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_stop_it(data: bytes) -> None:
    read("x", data)


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!<, \n\t#'\"0.?|>", max_size=60))
def test_what_pyyaml_reads_is_read_alike(text: str) -> None:
    try:
        expected = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    found = read("x", text.encode())
    assert found.findings or repr(found.data) == repr(expected)


def test_lint_of_a_bomb_is_an_ordinary_finding(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [*a]\n")
    assert [item.code for item in lint(str(path))] == ["yaml-syntax"]
