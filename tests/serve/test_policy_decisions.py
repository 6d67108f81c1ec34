"""Each number of the serving guide, at it and one over it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_kit import HEADERS, IDENTITY, policy_of

from hermetic.llm.policy import Operation
from hermetic.serve.openai.hooks import Refusal
from hermetic.serve.policy.decisions import (
    Figures,
    RequestFacts,
    after,
    before,
    check_headers,
    defaults_of,
)

POLICY = policy_of()


def figures(**changes: Any) -> Figures:
    return Figures(**{"prompt_tokens": 10, "completion_tokens": 5, "latency_ms": 3.0} | changes)


@pytest.mark.parametrize(
    ("prompt", "answer", "param", "says"),
    [
        (4000, 2000, None, ""),
        (4001, 1, "messages", "the prompt has 4001 tokens, and at most 4000 are allowed"),
        (4000, 2001, "max_tokens", "together more than the 6000 that are allowed"),
        (1, 6000, "max_tokens", "together more than the 6000"),
    ],
)
def test_tokens(prompt: int, answer: int, param: str | None, says: str) -> None:
    refusal, _ = before(POLICY, RequestFacts(prompt, answer))
    if param is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert (refusal.status, refusal.code, refusal.param) == (400, "token_budget_overrun", param)
        assert says in refusal.message


@pytest.mark.parametrize(("tokens", "alerted"), [(5000, []), (5001, [("cost_budget", "finance")])])
def test_more_than_ten_cents_alert_finance(tokens: int, alerted: list[tuple[str, str]]) -> None:
    """5,000 tokens of 0.00002 US dollars are 0.10 exactly, which is not more."""
    found = after(POLICY, figures(prompt_tokens=tokens - 100, completion_tokens=100))
    assert [(one.reason, one.recipient) for one in found] == alerted


@pytest.mark.parametrize(("delay", "alerted"), [(2500.0, []), (2500.1, [("queue_delay", "readiness")]), (None, [])])
def test_more_than_2500_us_alert_readiness(delay: float | None, alerted: list[tuple[str, str]]) -> None:
    found = after(POLICY, figures(queue_delay_us=delay))
    assert [(one.reason, one.recipient) for one in found] == alerted


def test_a_cost_can_be_rejected_beforehand() -> None:
    policy = policy_of(thresholds={"max_cost_usd": {"limit": Decimal("0.10"), "action": "reject"}})
    assert before(policy, RequestFacts(4000, 1000))[0] is None
    refusal, breaches = before(policy, RequestFacts(4000, 1001))
    assert refusal is not None
    assert refusal.code == "cost_budget_overrun"
    assert [(one.value, one.limit) for one in breaches] == [(Decimal("0.10002"), Decimal("0.10"))]
    assert after(policy, figures(prompt_tokens=9000)) == ()


def test_prices_of_templates_and_their_versions() -> None:
    cost = POLICY.prices.cost
    assert cost(500, 500) == Decimal("0.02")
    assert cost(0, 0, "contract") == cost(0, 0, "contract@1") == Decimal("0.01")
    assert cost(0, 0, "contract@2") == Decimal("0.02")
    assert cost(0, 0, "other") == 0
    split = policy_of(prices={"price_per_token": {"prompt": Decimal(1), "completion": Decimal(3)}}).prices
    assert split.cost(2, 5) == 17


@pytest.mark.parametrize("missing", ["X-Engine-Hash", "X-Quantisation"])
def test_a_missing_header_is_a_400(missing: str) -> None:
    refusal = check_headers(POLICY, IDENTITY, {key: value for key, value in HEADERS.items() if key != missing.lower()})
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.param) == (400, "header_missing", missing)


@pytest.mark.parametrize("other", ["X-Engine-Hash", "X-Quantisation"])
def test_a_different_header_is_a_412_with_both_values(other: str) -> None:
    refusal = check_headers(POLICY, IDENTITY, HEADERS | {other.lower(): "fp8"})
    assert refusal is not None
    assert (refusal.status, refusal.code) == (412, "header_mismatch")
    assert "fp8" in refusal.message
    assert IDENTITY.headers[other] in refusal.message


def test_headers_that_are_right_or_not_asked_for() -> None:
    assert check_headers(POLICY, IDENTITY, HEADERS) is None
    assert check_headers(policy_of(required_headers=[]), IDENTITY, {}) is None


def test_operations() -> None:
    assert defaults_of(POLICY, "") == Operation()
    judge = defaults_of(POLICY, "judge")
    assert isinstance(judge, Operation)
    assert (judge.temperature, judge.top_p) == (Decimal("0.1"), Decimal("0.9"))
    unknown = defaults_of(POLICY, "poem")
    assert isinstance(unknown, Refusal)
    assert (unknown.status, unknown.code) == (400, "unknown_operation")
    assert "generate_json, judge, rank_candidates" in unknown.message


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_what_is_let_through_keeps_every_limit(prompt: int, answer: int) -> None:
    refusal, _ = before(POLICY, RequestFacts(prompt, answer))
    assert (refusal is None) == (prompt <= 4000 and prompt + answer <= 6000)
    if refusal is None:
        found = after(POLICY, figures(prompt_tokens=prompt, completion_tokens=answer))
        assert {one.threshold for one in found} <= {"max_cost_usd"}


def test_ratios() -> None:
    assert figures(kv_reused=3, kv_total=4).kv_reuse_ratio == 0.75
    assert figures(kv_reused=0, kv_total=0).kv_reuse_ratio is None
    assert figures().kv_reuse_ratio is None
    assert figures(draft_tokens=10, draft_accepted=6).speculative_accept_ratio == 0.6
