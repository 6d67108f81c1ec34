"""A policy file with everything that it names, as it was when it was read; replaced as a whole, never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hermetic.llm.policy import Policy, PolicyFile
from hermetic.serve.policy.alerts import Alerts
from hermetic.serve.policy.delivery import Deliveries
from hermetic.serve.policy.events import EventLog, log_of
from hermetic.serve.policy.manifests import RuntimeManifest, read_manifests
from hermetic.serve.policy.redaction import Redactor
from hermetic.serve.policy.schemas import SchemaRegistry
from hermetic.serve.readiness import SignOffs

__all__ = ["Past", "Rules"]


@dataclass(frozen=True)
class Rules:
    """A request is judged by one of these from its beginning to its end, whatever is read meanwhile."""

    file: PolicyFile
    registry: SchemaRegistry
    manifests: tuple[RuntimeManifest, ...]
    redactor: Redactor
    sign_offs: SignOffs
    log: EventLog
    deliveries: Deliveries
    alerts: Alerts

    @property
    def policy(self) -> Policy:
        return self.file.policy

    @classmethod
    def of(
        cls,
        file: PolicyFile,
        log: EventLog | None,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> Rules:
        """Reads what `file` names. Raises `HermeticError` for what is not sound there."""
        policy = file.policy
        log = log or log_of(file)

        def delivered(recipient: str, document: Mapping[str, Any], problem: str) -> None:
            if problem:
                log.tell("llm.alert_undelivered", recipient=recipient, alert=document.get("id"), cause=problem)

        deliveries = Deliveries(policy.recipients, delivered, sleep=sleep)
        return cls(
            file=file,
            registry=SchemaRegistry.read(file.path(policy.schemas.folder)) if policy.schemas else SchemaRegistry(),
            manifests=read_manifests(file.path(policy.runtime_manifests)) if policy.runtime_manifests else (),
            redactor=Redactor(policy.redaction),
            sign_offs=SignOffs(file.path(f"{policy.state}/sign-offs")),
            log=log,
            deliveries=deliveries,
            alerts=Alerts(policy, log, deliveries, now),
        )


class Past:
    """Rules that are in force no more, for as long as requests or alerts go by them."""

    def __init__(self) -> None:
        self._rules: list[Rules] = []

    def add(self, rules: Rules, used: Iterable[Rules]) -> None:
        """`used` are those that requests go by which run."""
        running = {id(one) for one in used}
        self._rules = [one for one in self._rules if one.deliveries.busy or id(one) in running]
        self._rules.append(rules)

    async def finish(self, now: Rules, within_s: float) -> None:
        """Wait for alerts that are on their way, then give up."""
        await asyncio.gather(*(one.deliveries.finish(within_s) for one in (*self._rules, now)))
