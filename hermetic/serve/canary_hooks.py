"""The hooks of a deployment that tries a candidate: a share of the requests, a decision, and the switch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hermetic.errors import HermeticError
from hermetic.llm.policy import PolicyFile
from hermetic.serve.canary import CANDIDATE, Decision, Trial, Verdict, goes_to_candidate, judge
from hermetic.serve.openai.hooks import Serving
from hermetic.serve.policy.decisions import Figures, Identity
from hermetic.serve.policy.events import ROLLED_BACK, EventLog
from hermetic.serve.policy.runtime import Clocks, PolicyHooks
from hermetic.serve.policy.side import Engine, Side

__all__ = ["CanaryHooks"]


class CanaryHooks(PolicyHooks):
    """`publish` makes the candidate the deployment's engine for good (it switches the link). It is called once,
    in a thread of its own, with why, if the trial ends well; it may raise `HermeticError`.

    Once a trial has ended, one engine gets everything; the other gets nothing new.
    """

    def __init__(
        self,
        file: PolicyFile,
        model: str,
        engine: Engine,
        candidate: Engine,
        publish: Callable[[str], None],
        *,
        log: EventLog | None = None,
        clocks: Clocks | None = None,
        read: Callable[[], PolicyFile] | None = None,
    ) -> None:
        super().__init__(file, model, engine, log=log, clocks=clocks, read=read)
        self.candidate = self.new_side(CANDIDATE, candidate)
        self._old = self.side
        self._publish = publish
        self._trial: Trial | None = None
        self._decided: Decision | None = None
        self._number = 0

    async def start(self, serving: Serving) -> None:
        await super().start(serving)
        self._trial = Trial(self.clocks.now())
        self.spawn(self._smoke())
        self.spawn(self._in_time())

    def route(self, endpoint: str, headers: Mapping[str, str]) -> str:  # noqa: ARG002
        if self._decided is not None or self._trial is None or self.candidate.warmed is None:
            return self.side.key
        named = headers.get("x-engine-hash")
        if named == self.candidate.identity.engine_hash:
            return CANDIDATE
        if named is not None and not self.policy.canary.share_named:
            return self.side.key
        number, self._number = self._number, self._number + 1
        chosen = goes_to_candidate(number, self.policy.canary.share_percent)
        return CANDIDATE if chosen else self.side.key

    def sides(self) -> Sequence[Side]:
        return [self._old, self.candidate]

    def side_of(self, key: str) -> Side:
        return self.candidate if key == CANDIDATE else self._old

    def named_by(self, side: Side, headers: Mapping[str, str]) -> Identity:
        """A request that names the old engine may be one of the share, where the policy says so."""
        itself = headers.get("x-engine-hash") == side.identity.engine_hash
        shared = self.policy.canary.share_named and side is self.candidate and not itself
        return self._old.identity if shared else side.identity

    def ended(self, side: Side, figures: Figures) -> None:
        if side is self.candidate and self._trial is not None and self._decided is None:
            self._trial = self._trial.counted(failed=figures.failed)
            self._judge(self.clocks.now())

    def canary_facts(self) -> dict[str, Any]:
        if self._trial is None:
            return {}
        decided = self._decided
        return {
            "candidate": self.candidate.identity.engine_hash,
            "share": f"{self.policy.canary.share_percent} %",
            "answered": f"{self._trial.answered} of {self.policy.canary.requests}",
            "smoke test": self.candidate.warm.value,
            "decision": f"{decided.verdict.value}: {decided.cause}" if decided else "not yet",
        }

    async def _smoke(self) -> None:
        await self.warm(self.candidate)
        other = self.candidate.mismatches(await self.serving.promised(CANDIDATE))
        if other and self._decided is None:
            self._decide(Decision(Verdict.BACK, "; ".join(other)))
        self._judge(self.clocks.now())

    async def _in_time(self) -> None:
        limit = self.policy.canary.within_s
        await self.clocks.sleep(limit)
        if self._trial is not None:
            self._judge(max(self.clocks.now(), self._trial.since + limit))

    def _judge(self, now: float) -> None:
        if self._trial is None or self._decided is not None:
            return
        side, warmed = self.candidate, self.candidate.warmed
        known = vars(self._trial) | {
            "smoke": side.warm,
            "smoke_problem": warmed.problem if warmed else "",
            "failing": tuple(side.windows.failing()),
        }
        decision = judge(self.policy.canary, Trial(**known), now)
        if decision.verdict is not Verdict.WAIT:
            self._decide(decision)

    def _decide(self, decision: Decision) -> None:
        self._decided = decision
        if decision.verdict is Verdict.PROMOTE:
            self.spawn(self._promote(decision.cause))
        else:
            self._give_up(decision.cause)

    async def _promote(self, cause: str) -> None:
        try:
            await asyncio.to_thread(self._publish, cause)
        except HermeticError as error:
            self._decided = Decision(Verdict.BACK, f"it could not be published: {error.message}")
            self._give_up(self._decided.cause)
            return
        self.side = self.candidate
        self.publish(self.side, cause)

    def _give_up(self, cause: str) -> None:
        given_up = self.candidate.identity.engine_hash
        self.alerts.record(ROLLED_BACK, **self.identified(self._old), cause=cause, given_up=given_up)
