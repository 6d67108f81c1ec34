"""Our verdict on every config of the corpus: what the comments in it say, and what the real package said."""

from __future__ import annotations

import json

import pytest
from truss_corpus import CORPUS, RECORD, Case, cases, record

from hermetic.llm.findings import Severity
from hermetic.llm.truss.config import COMPARED_WITH
from hermetic.llm.truss.lint import lint

#: Configs that the real package accepts and hermetic refuses, and why.
STRICTER = {
    "stricter-accelerator-twice.yaml": "whoever writes H100:2:3 did not mean one H100, which is what Truss reads",
    "stricter-accelerator.yaml": "Truss drops it before it looks for unknown fields; the engine would be another",
    "stricter-build.yaml": "Truss looks for unknown fields everywhere but in build; the engine would be another",
    "stricter-checkpoint.yaml": "the same: the checkpoint would be another",
    "stricter-cpu.yaml": "inf, nan, -1 and 1_000 are numbers to Python and no amount of cores or memory",
    "stricter-duplicate.yaml": "Truss warns and takes the last; which line counts must not be a matter of order",
    "stricter-memory.yaml": "Truss accepts a unit without a number, and fails later when it computes with it",
    "stricter-speculator.yaml": "the same as in build",
}


def found(case: Case, severity: Severity) -> frozenset[tuple[str, str]]:
    return frozenset((item.code, item.where) for item in lint(str(case.path)) if item.severity is severity)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.path.stem)
def test_says_what_the_config_expects(case: Case) -> None:
    assert found(case, Severity.ERROR) == case.refuses
    assert found(case, Severity.WARNING) == case.warns


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.path.stem)
def test_has_the_verdict_of_the_real_package(case: Case) -> None:
    ours = "refuse" if case.refuses else "accept"
    expected = "accept" if case.path.name in STRICTER else ours
    assert record()[case.path.name]["verdict"] == expected


@pytest.mark.parametrize("case", [case for case in cases() if case.refuses], ids=lambda case: case.path.stem)
def test_names_the_field_that_the_real_package_names(case: Case) -> None:
    """Or one above or below: Truss often names only the mapping that a field is in."""
    named = record()[case.path.name].get("fields") or [""]
    assert any(related(ours, str(theirs)) for _, ours in case.refuses for theirs in named)  # type: ignore[attr-defined]


def related(one: str, other: str) -> bool:
    first, second = (path.split(".") if path else [] for path in (one, other.removesuffix(".[key]")))
    return all(a == b for a, b in zip(first, second, strict=False))


def test_the_record_is_of_this_corpus_and_of_the_version_that_is_named() -> None:
    assert set(record()) == {path.name for path in CORPUS.glob("*.yaml")}
    assert json.loads(RECORD.read_text("utf-8"))["truss"] == COMPARED_WITH


def test_every_stricter_config_is_still_accepted_by_the_real_package() -> None:
    assert {name for name, said in record().items() if said["verdict"] == "accept"} >= STRICTER.keys()


def test_the_corpus_is_large_enough_and_has_both_kinds() -> None:
    good = [case for case in cases() if not case.refuses]
    assert len(good) >= 60
    assert len(cases()) - len(good) >= 60


def test_every_config_says_what_it_is_about() -> None:
    for case in cases():
        assert case.path.read_text("utf-8").startswith("# "), case.path.name


def test_a_finding_of_the_corpus_has_a_line_unless_the_file_is_empty() -> None:
    for case in cases():
        lines = case.path.read_text("utf-8").splitlines()
        assert all(0 < item.line <= len(lines) for item in lint(str(case.path)) if item.severity is Severity.ERROR)
