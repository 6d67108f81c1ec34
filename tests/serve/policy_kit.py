"""The policy of the serving guide, for tests."""

from __future__ import annotations

from typing import Any

from hermetic.llm.policy import Policy
from hermetic.serve.policy.decisions import Identity

IDENTITY = Identity("blake3:" + "e" * 64, "w4a8", "blake3:" + "7" * 64)
HEADERS = {name.lower(): value for name, value in IDENTITY.headers.items()}

SEED = """
policy = 1

[thresholds]
max_prompt_tokens = {limit = 4000, action = "reject"}
max_tokens = {limit = 6000, action = "reject"}
max_cost_usd = {limit = 0.10, action = "alert", recipient = "finance"}
max_queue_delay_us = {limit = 2500, action = "alert", recipient = "readiness"}

[recipients.finance]
[recipients.readiness]
webhook = "http://127.0.0.1:9/readiness"

[prices]
price_per_token = 0.00002
template_costs = {contract = 0.01, "contract@2" = 0.02}
"""


def policy_of(text: str = SEED, **changes: Any) -> Policy:
    """The policy of `text`, with top-level fields of `changes` instead of its own."""
    import tomllib
    from decimal import Decimal

    return Policy.model_validate(tomllib.loads(text, parse_float=Decimal) | changes)
