"""What a policy says to one request, before it runs and after: no clock, no network, no state.

Breaches say which threshold was passed, by how much, and whom that concerns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from hermetic.llm.policy import Operation, Policy, Threshold
from hermetic.serve.openai.hooks import Refusal

__all__ = [
    "Breach",
    "Figures",
    "Identity",
    "RequestFacts",
    "after",
    "before",
    "check_headers",
    "defaults_of",
]

#: What a breach is called in events and metrics, as the serving guide's provider has it.
REASONS: Final[Mapping[str, str]] = {
    "max_prompt_tokens": "token_budget",
    "max_tokens": "token_budget",
    "max_cost_usd": "cost_budget",
    "max_queue_delay_us": "queue_delay",
}
#: What the serving guide calls a request that is too long.
TOKEN_BUDGET: Final = "token_budget_overrun"  # noqa: S105


@dataclass(frozen=True)
class Identity:
    """What is served: ``blake3:…`` of all files of engine and tokenizer, and the quantisation (``int4``, ``fp16``…)."""

    engine_hash: str
    quantisation: str
    tokenizer_hash: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """By the names of the serving guide: what requests must say, and every answer says."""
        return {"X-Engine-Hash": self.engine_hash, "X-Quantisation": self.quantisation}


@dataclass(frozen=True)
class RequestFacts:
    """What is known before the request runs. `max_tokens` is how long each of `choices` answers may become."""

    prompt_tokens: int
    max_tokens: int
    choices: int = 1
    template: str = ""


@dataclass(frozen=True)
class Figures:
    """What is known afterwards, None where the server did not say. `failed`: it was not the client's doing."""

    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    queue_delay_us: float | None = None
    kv_reused: int | None = None
    kv_total: int | None = None
    draft_tokens: int | None = None
    draft_accepted: int | None = None
    answers: int = 1
    template: str = ""
    failed: bool = False

    @property
    def tokens(self) -> int:
        """Of the prompt and of one answer, of several the average one."""
        return self.prompt_tokens + math.ceil(self.completion_tokens / max(1, self.answers))

    @property
    def kv_reuse_ratio(self) -> float | None:
        return _ratio(self.kv_reused, self.kv_total)

    @property
    def speculative_accept_ratio(self) -> float | None:
        return _ratio(self.draft_accepted, self.draft_tokens)


def _ratio(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


@dataclass(frozen=True)
class Breach:
    """A threshold that a request passed: `value` is more than `limit`."""

    threshold: str
    value: Decimal
    limit: Decimal
    recipient: str | None
    rejected: bool

    @property
    def reason(self) -> str:
        return REASONS[self.threshold]


def check_headers(policy: Policy, identity: Identity, headers: Mapping[str, str]) -> Refusal | None:
    """`headers` by lower-case name. A missing one is a 400, one with another value a 412 that shows both."""
    served = identity.headers
    given = {name: headers.get(name.lower()) for name in policy.required_headers}
    for name, value in given.items():
        if not value:
            message = f"the header {name} is required; this deployment serves {served[name]}"
            return Refusal(400, "header_missing", message, name)
    for name, value in given.items():
        if value != served[name]:
            message = f"the request is for {name} {value}, and this deployment serves {served[name]}"
            return Refusal(412, "header_mismatch", message, name)
    return None


def defaults_of(policy: Policy, operation: str) -> Operation | Refusal:
    """Of a named operation; none named has none."""
    if not operation:
        return Operation()
    known = policy.operations.get(operation)
    if known is None:
        names = ", ".join(sorted(policy.operations))
        return Refusal(400, "unknown_operation", f"there is no operation {operation!r}; there are {names}", "operation")
    return known


def before(policy: Policy, facts: RequestFacts) -> tuple[Refusal | None, tuple[Breach, ...]]:
    """What the request's size says already, with the answer as long as it may become; the first rejection wins."""
    most = facts.prompt_tokens + facts.max_tokens
    cost = policy.prices.cost(facts.prompt_tokens, facts.max_tokens * facts.choices, facts.template)
    sizes: dict[str, Decimal | float] = {
        "max_prompt_tokens": facts.prompt_tokens,
        "max_tokens": most,
        "max_cost_usd": cost,
    }
    found = tuple(one for one in _breaches(policy, sizes) if one.rejected)
    return (_refusal(found[0], facts) if found else None), found[:1]


def after(policy: Policy, figures: Figures) -> tuple[Breach, ...]:
    """What the request was in the end, for those thresholds that alert."""
    cost = policy.prices.cost(figures.prompt_tokens, figures.completion_tokens, figures.template)
    sizes: dict[str, Decimal | float] = {
        "max_prompt_tokens": figures.prompt_tokens,
        "max_tokens": figures.tokens,
        "max_cost_usd": cost,
    }
    if figures.queue_delay_us is not None:
        sizes["max_queue_delay_us"] = figures.queue_delay_us
    return tuple(one for one in _breaches(policy, sizes) if not one.rejected)


def _breaches(policy: Policy, sizes: Mapping[str, Decimal | float]) -> Iterator[Breach]:
    for name, threshold in policy.thresholds.given().items():
        if name in sizes and (value := Decimal(str(sizes[name]))) > threshold.limit:
            yield _breach(name, threshold, value)


def _breach(name: str, threshold: Threshold, value: Decimal) -> Breach:
    return Breach(name, value, threshold.limit, threshold.recipient, rejected=threshold.action == "reject")


def _refusal(breach: Breach, facts: RequestFacts) -> Refusal:
    if breach.reason == "cost_budget":
        message = f"the request may cost {breach.value} US dollars, and at most {breach.limit} are allowed"
        return Refusal(400, "cost_budget_overrun", message, "max_tokens")
    if breach.threshold == "max_prompt_tokens":
        message = f"the prompt has {breach.value} tokens, and at most {breach.limit} are allowed"
        return Refusal(400, TOKEN_BUDGET, message, "messages")
    message = (
        f"the prompt has {facts.prompt_tokens} tokens and the answer may have {facts.max_tokens}: "
        f"together more than the {breach.limit} that are allowed"
    )
    return Refusal(400, TOKEN_BUDGET, message, "max_tokens")
