"""From what the proxy and Triton say of a request that has ended to what a policy judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hermetic.serve.openai.hooks import Outcome, Timings
from hermetic.serve.policy.admission import Admitted
from hermetic.serve.policy.decisions import Breach, Figures

__all__ = ["figures_of", "request_line"]


def figures_of(outcome: Outcome, admitted: Admitted) -> Figures:
    """Of several answers the longest delay, and the sums of blocks and tokens."""
    timings = outcome.timings
    delays = [one.queue_delay_us for one in timings if one.queue_delay_us is not None]
    return Figures(
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        latency_ms=outcome.duration_s * 1000,
        queue_delay_us=max(delays, default=None),
        kv_reused=_sum(timings, lambda one: one.kv_blocks_reused),
        kv_total=_sum(timings, lambda one: one.kv_blocks),
        draft_tokens=_sum(timings, lambda one: one.draft_tokens),
        draft_accepted=_sum(timings, lambda one: one.accepted_tokens),
        answers=max(1, len(outcome.finish_reasons)),
        template=admitted.template,
        failed=outcome.status >= 500,
    )


def _sum(timings: Iterable[Timings], of: Callable[[Timings], int | None]) -> int | None:
    known = [value for one in timings if (value := of(one)) is not None]
    return sum(known) if known else None


def request_line(
    figures: Figures, admitted: Admitted, outcome: Outcome, breaches: Sequence[Breach], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of ``llm.request``, as the serving guide's provider logs them; never any text of prompt or answer."""
    passed = {one.reason for one in breaches}
    return {
        **more,
        "operation": admitted.operation or None,
        "template": admitted.template or None,
        "schema_id": admitted.schema_id or None,
        "duration_ms": round(figures.latency_ms, 3),
        "queue_delay_us": figures.queue_delay_us,
        "tokens_in": figures.prompt_tokens,
        "tokens_out": figures.completion_tokens,
        "kv_cache_reuse": _pair("hits", figures.kv_reused, "misses", figures.kv_total),
        "speculative": _both("attempts", figures.draft_tokens, "accepts", figures.draft_accepted),
        "error_code": outcome.error,
        "queue_delay_budget_overrun": "queue_delay" in passed,
        "token_budget_overrun": "token_budget" in passed,
        "cost_budget_overrun": "cost_budget" in passed,
    }


def _pair(first: str, hits: int | None, second: str, total: int | None) -> dict[str, int] | None:
    return {first: hits, second: total - hits} if hits is not None and total is not None else None


def _both(first: str, one: int | None, second: str, other: int | None) -> dict[str, int] | None:
    return {first: one, second: other} if one is not None and other is not None else None
