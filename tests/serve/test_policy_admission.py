"""Requests against a whole policy: operations, schemas, length, and which refusal comes first."""

from __future__ import annotations

from typing import Any

import pytest
from policy_kit import HEADERS, IDENTITY, policy_of

from hermetic.serve.openai.hooks import Facts, Passed, Refusal
from hermetic.serve.policy.admission import Admitted, admit
from hermetic.serve.policy.schemas import Schema, SchemaRegistry, schema_digest

ANSWER = {"type": "object", "properties": {"a": {"type": "string"}}}
REGISTRY = SchemaRegistry((Schema("answer", "1", schema_digest(ANSWER), ANSWER),))
POLICY = policy_of(schemas={"folder": "schemas", "required": True})


def asked(body: dict[str, Any] | None = None, *, policy: Any = POLICY, **more: Any) -> tuple[Any, Admitted]:
    headers = HEADERS | {f"x-{name.replace('_', '-')}": value for name, value in more.pop("named", {}).items()}
    facts = {"id": "1", "endpoint": "chat.completions", "model": "m", "prompt_tokens": 100, "max_tokens": 8000}
    return admit(policy, REGISTRY, IDENTITY, Facts(**facts | {"body": body or {}} | more), headers)


def refused(*arguments: Any, **more: Any) -> tuple[int, str, str | None]:
    answer, _ = asked(*arguments, **more)
    assert isinstance(answer, Refusal), answer
    return answer.status, answer.code, answer.param


def passed(*arguments: Any, **more: Any) -> Passed:
    answer, _ = asked(*arguments, **more)
    assert isinstance(answer, Passed), answer
    return answer


@pytest.mark.parametrize(
    ("operation", "defaults"),
    [
        ("judge", {"temperature": 0.1, "top_p": 0.9, "max_tokens": 512}),
        ("rank_candidates", {"temperature": 0.0, "max_tokens": 1}),
    ],
)
def test_the_defaults_of_the_seed(operation: str, defaults: dict[str, Any]) -> None:
    assert passed(named={"operation": operation}).defaults == defaults


def test_generate_json_is_guided() -> None:
    assert refused(named={"operation": "generate_json"}) == (400, "schema_required", "response_format")
    answer, admitted = asked(named={"operation": "generate_json", "schema_id": "answer_1"})
    assert answer.defaults == {
        "temperature": 0.0,
        "max_tokens": 256,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer_1", "schema": ANSWER}},
    }
    assert answer.headers == {"X-Schema-Id": "answer_1"}
    assert admitted == Admitted("generate_json", "", "answer_1")


def test_a_schema_is_known_by_what_it_says() -> None:
    answer, admitted = asked({"response_format": {}}, schema=dict(reversed(ANSWER.items())))
    assert isinstance(answer, Passed)
    assert admitted.schema_id == "answer_1"


def test_schemas_that_are_not_registered() -> None:
    other = {"type": "array"}
    assert refused(schema=other) == (400, "schema_not_registered", "response_format")
    assert refused(named={"schema_id": "answer_2"}) == (400, "unknown_schema", "X-Schema-Id")
    assert refused(schema=other, named={"schema_id": "answer_1"}) == (400, "schema_mismatch", "response_format")
    text = {"response_format": {"type": "text"}}
    assert refused(text, named={"schema_id": "answer_1"}) == (400, "schema_mismatch", "response_format")
    _, admitted = asked(schema=other, policy=policy_of())
    assert admitted.schema_id == "unregistered"


def test_a_length_that_nobody_chose_keeps_to_the_budget() -> None:
    """An OpenAI client that says nothing must not be refused for the longest answer that the engine could give."""
    assert passed().defaults == {"max_tokens": 5900}
    assert passed({"max_tokens": 10}, max_tokens=10).defaults == {}
    assert refused({"max_completion_tokens": 8000}) == (400, "token_budget_overrun", "max_tokens")
    assert refused(prompt_tokens=4001) == (400, "token_budget_overrun", "messages")


def test_what_is_refused_first() -> None:
    """Who asks another engine learns that, whatever else is wrong."""
    wrong = {"engine_hash": "blake3:other", "operation": "poem"}
    assert refused(prompt_tokens=9000, named=wrong)[:2] == (412, "header_mismatch")
    assert refused(prompt_tokens=9000, named={"operation": "poem"})[:2] == (400, "unknown_operation")
    assert refused(named={"template": "a b"})[:2] == (400, "bad_template")


def test_several_answers_cost_more() -> None:
    limit = {"max_cost_usd": {"limit": "0.10", "action": "reject"}}
    policy = policy_of(thresholds=limit)
    body = {"max_tokens": 1000}
    assert isinstance(asked(body, policy=policy, max_tokens=1000, choices=4)[0], Passed)
    assert refused(body, policy=policy, max_tokens=1000, choices=5)[1] == "cost_budget_overrun"
