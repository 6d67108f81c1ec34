"""Breaches become events, and events go to their recipients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hermetic.errors import HermeticError
from hermetic.llm.policy import Policy
from hermetic.serve.policy.decisions import TOKEN_BUDGET, Breach
from hermetic.serve.policy.delivery import Deliveries
from hermetic.serve.policy.events import ALERT, EventLog
from hermetic.serve.policy.windows import Held

__all__ = ["Alerts"]

_THRESHOLD_OF = {
    "llm.tokens": "max_tokens",
    "llm.cost_usd": "max_cost_usd",
    "llm.queue_delay_us": "max_queue_delay_us",
}


class Alerts:
    """`unwritten` is why the log of events has a gap, "" if it has none."""

    def __init__(self, policy: Policy, log: EventLog, deliveries: Deliveries, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._log = log
        self._deliveries = deliveries
        self._clock = clock
        self._told: dict[str, float] = {}
        self._withheld: dict[str, int] = {}
        self.unwritten = ""

    def go_on_from(self, before: Alerts) -> None:
        """Take the place of `before`: what was withheld is told, and a gap in the log stays known."""
        self._told, self._withheld, self.unwritten = before._told, before._withheld, before.unwritten

    def record(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """Log an event; a log that can't be written makes the deployment unready, and stops no request."""
        try:
            document = self._log.write(event, **fields)
        except HermeticError as error:
            self.unwritten = error.message
            self._log.tell("llm.event_lost", lost=event, cause=error.message)
            return None
        self.unwritten = ""
        return document

    def breach(self, breach: Breach, more: Mapping[str, Any]) -> None:
        """Of one request."""
        withheld = self._held_back(breach)
        if withheld is None:
            return
        flag = {"flag": TOKEN_BUDGET} if breach.reason == "token_budget" else {}
        self._alert(
            breach.recipient,
            reason=breach.reason,
            threshold=breach.threshold,
            value=float(breach.value),
            limit=float(breach.limit),
            action="reject" if breach.rejected else "alert",
            withheld=withheld,
            **flag,
            **more,
        )

    def window(self, held: Held, more: Mapping[str, Any]) -> None:
        """One that has just begun to fail: whoever is told of the threshold itself is told."""
        name = _THRESHOLD_OF.get(held.window.metric, "")
        threshold = self._policy.thresholds.given().get(name)
        recipient = threshold.recipient if threshold is not None else None
        bound = held.window.at_most if held.window.at_most is not None else held.window.at_least
        reason, metric = "window", held.window.metric
        limit = float(bound) if bound is not None else None
        self._alert(recipient, reason=reason, metric=metric, value=held.value, limit=limit, message=str(held), **more)

    def _alert(self, recipient: str | None, **fields: Any) -> None:
        document = self.record(ALERT, recipient=recipient, **fields)
        if document is not None:
            self._deliveries.hand_over(recipient, document)

    def _held_back(self, breach: Breach) -> int | None:
        """How many breaches were not logged since the last one that was; None for one that is not either."""
        name, now = breach.threshold, self._clock()
        every_s = float(self._policy.thresholds.given()[name].every_s)
        if name in self._told and now - self._told[name] < every_s:
            self._withheld[name] = self._withheld.get(name, 0) + 1
            return None
        self._told[name] = now
        return self._withheld.pop(name, 0)
