"""The policy file of a deployment: what is asked of requests, what is counted, and when the deployment is ready.

TOML or YAML, by its name's ending. Amounts of money and limits are decimal numbers, never binary floats: 0.10 is 0.10.
Relative paths in it are relative to its own folder. The serving room decides by it, and `hermetic lint` compares it
with the engine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from hermetic.llm.truss.base import Count, Model, Text, wrong

__all__ = [
    "HEADERS",
    "OPERATIONS",
    "Action",
    "Canary",
    "Events",
    "Operation",
    "PerToken",
    "Policy",
    "PolicyFile",
    "Prices",
    "Readiness",
    "Recipient",
    "Schemas",
    "Statistic",
    "Threshold",
    "Thresholds",
    "WarmUp",
    "Window",
    "WindowMetric",
]

Action = Literal["reject", "alert"]
Header = Literal["X-Engine-Hash", "X-Quantisation"]
#: The serving guide: what requests must say.
HEADERS: Final[tuple[Header, ...]] = ("X-Engine-Hash", "X-Quantisation")
Statistic = Literal["mean", "p50", "p95", "p99", "max"]
WindowMetric = Literal[
    "llm.latency_ms",
    "llm.queue_delay_us",
    "llm.tokens",
    "llm.cost_usd",
    "llm.kv_reuse_ratio",
    "llm.speculative_accept_ratio",
    "llm.error_rate",
]
Amount = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[Decimal, Field(gt=0, le=86_400, allow_inf_nan=False)]

#: The operations that are there without being listed, with the defaults of the serving guide and its provider's limits.
OPERATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "generate_json": {"temperature": Decimal(0), "max_tokens": 256, "guided": True},
    "rank_candidates": {"temperature": Decimal(0), "max_tokens": 1},
    "judge": {"temperature": Decimal("0.1"), "top_p": Decimal("0.9"), "max_tokens": 512},
}


class Operation(Model):
    """Defaults of requests that name it; what a request sets itself stands. `guided` ones must have a schema."""

    temperature: Annotated[Decimal, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Decimal, Field(gt=0, le=1)] | None = None
    max_tokens: Count | None = None
    guided: bool = False


class Recipient(Model):
    """Who is told. Without `webhook` only the log of events is; a delivery is tried `attempts` times, and waits
    `backoff_s` before the second, twice as long before each further one.
    """

    webhook: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    attempts: Annotated[Count, Field(le=20)] = 5
    backoff_s: Seconds = Decimal(1)
    timeout_s: Seconds = Decimal(10)


class Threshold(Model):
    """More than `limit` is rejected, or answered and `recipient` is told; of several within `every_s` seconds only of
    the first, and with the next one how many there were.
    """

    limit: Amount
    action: Action
    recipient: Text | None = None
    every_s: Annotated[Decimal, Field(ge=0, le=86_400, allow_inf_nan=False)] = Decimal(1)

    @model_validator(mode="after")
    def _is_heard(self) -> Threshold:
        if self.action == "alert" and self.recipient is None:
            raise wrong("nobody-alerted", "an alert needs a recipient", "recipient")
        return self


class Thresholds(Model):
    """Of one request: tokens of the prompt, tokens of prompt and answer, US dollars, µs until it was scheduled."""

    max_prompt_tokens: Threshold | None = None
    max_tokens: Threshold | None = None
    max_cost_usd: Threshold | None = None
    max_queue_delay_us: Threshold | None = None

    @field_validator("max_queue_delay_us")
    @classmethod
    def _is_known_too_late(cls, value: Threshold | None) -> Threshold | None:
        if value is not None and value.action == "reject":
            raise wrong("known-too-late", "the delay is known once the request has run: it can only alert", "action")
        return value

    def given(self) -> dict[str, Threshold]:
        """Those that are set, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in found.items() if one is not None}


class PerToken(Model):
    """US dollars for a token of the prompt and of the answer; one number stands for both."""

    prompt: Amount = Decimal(0)
    completion: Amount = Decimal(0)

    @model_validator(mode="before")
    @classmethod
    def _of_one(cls, value: Any) -> Any:
        return value if isinstance(value, dict | PerToken) else {"prompt": value, "completion": value}


class Prices(Model):
    """`template_costs` is added once for a request, by the template's id, or by ``id@version``."""

    price_per_token: PerToken = PerToken()
    template_costs: dict[Text, Amount] = Field(default_factory=dict)

    def cost(self, prompt_tokens: int, completion_tokens: int, template: str = "") -> Decimal:
        """In US dollars, exactly."""
        price, costs = self.price_per_token, self.template_costs
        once = costs.get(template, costs.get(template.partition("@")[0], Decimal(0)))
        return price.prompt * prompt_tokens + price.completion * completion_tokens + once

    @property
    def are_free(self) -> bool:
        return not any((*self.template_costs.values(), self.price_per_token.prompt, self.price_per_token.completion))


class Schemas(Model):
    """The registry: files ``name_version.json``. With `required` a guided request must use one of them."""

    folder: Text
    required: bool = False


class Redaction(Model):
    """What never gets into logs, events, alerts or the page: whatever `patterns` (regular expressions) match."""

    patterns: tuple[Text, ...] = ()
    replacement: str = "[redacted]"

    @field_validator("patterns")
    @classmethod
    def _compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for index, pattern in enumerate(value):
            try:
                matches_nothing = re.compile(pattern).match("")
            except re.error as error:
                raise wrong("bad-pattern", f"{pattern!r} is no regular expression: {error}", str(index)) from error
            if matches_nothing:
                raise wrong("bad-pattern", f"{pattern!r} matches the empty text, so all text would go", str(index))
        return value


class Window(Model):
    """A figure over the last `seconds`, which must be at most or at least a number; fewer than `min_requests` say
    nothing, and neither does a figure that the server does not give.
    """

    metric: WindowMetric
    statistic: Statistic = "p95"
    at_most: Amount | None = None
    at_least: Amount | None = None
    seconds: Annotated[Count, Field(le=86_400)] = 300
    min_requests: Count = 1

    @model_validator(mode="after")
    def _one_bound(self) -> Window:
        if (self.at_most is None) == (self.at_least is None):
            raise wrong("one-bound", "give at_most or at_least", "at_most")
        return self


class WarmUp(Model):
    """A prompt that is answered before the deployment is ready; `expect` must occur in the answer."""

    prompt: Text
    expect: str = ""
    max_tokens: Annotated[Count, Field(le=4096)] = 32


class Readiness(Model):
    """`window_s`: the thresholds of one request hold for the 95th percentile of this time too, in seconds."""

    warm_up: tuple[WarmUp, ...] = (WarmUp(prompt="Hello"),)
    window_s: Annotated[Count, Field(le=86_400)] = 300
    min_requests: Count = 20
    windows: tuple[Window, ...] = ()
    sign_off: tuple[Text, ...] = ()


class Canary(Model):
    """`share_percent` of the requests go to a candidate; after `requests` of them, and within `within_s` seconds at
    the latest, it takes over or is given up. A request that names an engine gets that one, unless with `share_named`.
    """

    share_percent: Annotated[Count, Field(le=50)] = 5
    requests: Count = 100
    within_s: Annotated[Count, Field(le=86_400)] = 3600
    share_named: bool = False


class Events(Model):
    """How much of the log of events is kept: files of `file_mb` MB, of which `files` lie beside the one that grows."""

    file_mb: Annotated[Count, Field(le=1024)] = 16
    files: Annotated[Count, Field(le=1000)] = 9

    @property
    def file_bytes(self) -> int:
        return self.file_mb * 1_000_000


_PER_REQUEST: Final[tuple[tuple[str, WindowMetric], ...]] = (
    ("max_tokens", "llm.tokens"),
    ("max_cost_usd", "llm.cost_usd"),
    ("max_queue_delay_us", "llm.queue_delay_us"),
)


class Policy(Model):
    """All of it. `policy` is the format's version, `state` the folder of the log of events and of sign-offs."""

    policy: Literal[1]
    required_headers: tuple[Header, ...] = HEADERS
    operations: dict[Text, Operation] = Field(default_factory=dict, validate_default=True)
    thresholds: Thresholds = Thresholds()
    recipients: dict[Text, Recipient] = Field(default_factory=dict)
    prices: Prices = Prices()
    schemas: Schemas | None = None
    redaction: Redaction = Redaction()
    runtime_manifests: Text | None = None
    readiness: Readiness = Readiness()
    canary: Canary = Canary()
    events: Events = Events()
    state: Text = "state"

    @field_validator("operations", mode="before")
    @classmethod
    def _with_those_that_are_always_there(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {name: {**defaults, **_mapping(value.get(name))} for name, defaults in OPERATIONS.items()}
        strange = {name: one for name, one in value.items() if name not in known or not isinstance(one, dict | None)}
        return {**known, **strange}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Policy:
        for name, threshold in self.thresholds.given().items():
            if threshold.recipient is not None and threshold.recipient not in self.recipients:
                message = f"there is no recipient {threshold.recipient!r}"
                raise wrong("unknown-recipient", message, f"thresholds.{name}.recipient")
        if self.thresholds.max_cost_usd is not None and self.prices.are_free:
            raise wrong("no-price", "nothing has a price, so no request costs more", "thresholds.max_cost_usd")
        return self

    def windows(self) -> tuple[Window, ...]:
        """Those that are listed, after those of the thresholds of one request."""
        ready, found = self.readiness, []
        for name, metric in _PER_REQUEST:
            threshold = self.thresholds.given().get(name)
            if threshold is not None:
                window = Window(
                    metric=metric,
                    at_most=threshold.limit,
                    seconds=ready.window_s,
                    min_requests=ready.min_requests,
                )
                found.append(window)
        return (*found, *ready.windows)


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class PolicyFile:
    """A policy and where it stands. `digest` is the SHA-256 of its bytes, in hexadecimal."""

    file: str
    digest: str
    policy: Policy

    def path(self, relative: str) -> str:
        """A path that the policy names, made absolute."""
        return os.path.join(os.path.dirname(os.path.abspath(self.file)), relative)
