"""Schemas, runtime manifests and redaction."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_kit import IDENTITY, policy_of

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import Redaction
from hermetic.serve.policy.manifests import PromptRuntimeManager, RuntimeManifest, for_engine, read_manifests
from hermetic.serve.policy.redaction import Redactor
from hermetic.serve.policy.schemas import SchemaRegistry

ANSWER = {"type": "object", "properties": {"a": {"type": "string"}}}
MANIFEST = {
    "engine_hash": IDENTITY.engine_hash,
    "tokenizer_hash": IDENTITY.tokenizer_hash,
    "thresholds": {"max_queue_delay_us": 2500, "max_tokens": 6000, "max_cost_usd": 0.1},
    "metadata": {"version": "3", "generated_at": "2026-11-21", "provenance": {"by": "eval"}},
    "templates": [{"id": "contract", "version": "2", "schema_id": "answer_1", "max_tokens": 256, "token_budget": 4000}],
}


def test_schemas_by_id_and_by_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "answer_1.json").write_text(json.dumps(ANSWER))
    (tmp_path / "long_name_1.2.json").write_text('{"type": "array"}')
    registry = SchemaRegistry.read(str(tmp_path))
    assert registry.ids == ("answer_1", "long_name_1.2")
    found = registry.get("answer_1")
    assert found is not None
    assert found.schema == ANSWER
    assert registry.of({"properties": {"a": {"type": "string"}}, "type": "object"}) is found
    assert registry.of({"type": "object"}) is None
    assert registry.get("answer_2") is None


@pytest.mark.parametrize(
    ("name", "text"), [("answer.json", "{}"), ("answer_one.json", "{}"), ("a_1.json", "["), ("a_1.json", "[]")]
)
def test_files_that_are_no_schemas(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HermeticError) as caught:
        SchemaRegistry.read(str(tmp_path))
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "schema-invalid")


def manager(**changes: Any) -> PromptRuntimeManager:
    return PromptRuntimeManager(RuntimeManifest.model_validate(MANIFEST | changes), policy_of(), IDENTITY)


def test_a_manifest_that_agrees() -> None:
    summary = manager().summary()
    assert summary["aligned"]
    assert summary["metadata"] == MANIFEST["metadata"]
    assert summary["templates"] == [{**MANIFEST["templates"][0], "warmup": False}]
    assert json.dumps(summary)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"engine_hash": "blake3:other"}, "engine_hash"),
        ({"tokenizer_hash": "blake3:other"}, "tokenizer_hash"),
        ({"quantisation": "fp8"}, "quantisation"),
        ({"thresholds": {"max_queue_delay_us": 3000, "max_tokens": 6000, "max_cost_usd": 0.1}}, "max_queue_delay_us"),
        ({"thresholds": {"max_queue_delay_us": 2500, "max_tokens": 6000}}, "max_cost_usd"),
    ],
)
def test_what_differs_is_named_with_both_sides(changes: dict[str, Any], field: str) -> None:
    (found,) = manager(**changes).mismatches()
    assert found.field.endswith(field)
    assert found.manifest != found.served
    assert manager(**changes).summary()["aligned"] is False


def test_the_manifest_of_the_engine_that_is_served(tmp_path: Path) -> None:
    """So that a roll-back of the engine is one of the manifest."""
    for name, engine in (("new", "blake3:new"), ("old", IDENTITY.engine_hash)):
        (tmp_path / f"{name}.json").write_text(json.dumps(MANIFEST | {"engine_hash": engine}))
    manifests = read_manifests(str(tmp_path))
    for engine in ("blake3:new", IDENTITY.engine_hash):
        found = for_engine(manifests, engine)
        assert found is not None
        assert found.engine_hash == engine
    assert for_engine((), "blake3:new") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"engine_hash": 3}', json.dumps(MANIFEST | {"templates": []})])
def test_files_that_are_no_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(HermeticError) as caught:
        read_manifests(str(tmp_path))
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "runtime-manifest-invalid")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abs k-1", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("sk-1", max_size=5), inner, max_size=3),
)


@given(JSON)
def test_nothing_that_a_pattern_matches_is_left(value: Any) -> None:
    pattern = r"sk-[a-z0-9]*"
    redacted = Redactor(Redaction(patterns=(pattern,), replacement="~")).value(value)
    assert not re.search(pattern, json.dumps(redacted))


def test_a_replacement_is_no_pattern() -> None:
    redactor = Redactor(Redaction(patterns=(r"([0-9]{4})",), replacement=r"\1"))
    assert redactor.text("card 1234") == r"card \1"
