"""A candidate engine gets a share of the traffic, and takes over or is given up: both within a limit of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from hermetic.llm.policy import Canary
from hermetic.serve.policy.windows import Held
from hermetic.serve.readiness import WarmUpState

__all__ = ["CANDIDATE", "Decision", "Trial", "Verdict", "goes_to_candidate", "judge"]

#: The candidate's name for the proxy.
CANDIDATE: Final = "candidate"


class Verdict(str, Enum):
    WAIT = "wait"
    PROMOTE = "promote"
    BACK = "back"


@dataclass(frozen=True)
class Decision:
    """And why, in words."""

    verdict: Verdict
    cause: str = ""


@dataclass(frozen=True)
class Trial:
    """How a candidate does. `since` and now are seconds of one clock; `answered` are requests that ended, `failed` of
    them not by the client's doing; `smoke` is its warm-up, whose prompts have known answers.
    """

    since: float
    smoke: WarmUpState = WarmUpState.PENDING
    smoke_problem: str = ""
    answered: int = 0
    failed: int = 0
    failing: Sequence[Held] = ()

    def counted(self, *, failed: bool) -> Trial:
        return replace(self, answered=self.answered + 1, failed=self.failed + failed)


def judge(canary: Canary, trial: Trial, now: float) -> Decision:
    """A failure ends the trial at once; success needs all its requests; the limit of time decides what neither has.

    No decision is put off beyond ``within_s``: a candidate that nobody asks is given up.
    """
    if trial.smoke is WarmUpState.FAILED:
        return Decision(Verdict.BACK, f"the smoke test failed: {trial.smoke_problem}")
    if trial.failed:
        return Decision(Verdict.BACK, f"{trial.failed} of {trial.answered} requests failed")
    if trial.failing:
        return Decision(Verdict.BACK, "; ".join(str(one) for one in trial.failing))
    if trial.smoke is WarmUpState.DONE and trial.answered >= canary.requests:
        return Decision(Verdict.PROMOTE, f"the smoke test and {trial.answered} requests passed")
    if now - trial.since >= canary.within_s:
        what = "its smoke test" if trial.smoke is WarmUpState.PENDING else f"{canary.requests} requests"
        return Decision(Verdict.BACK, f"{what} did not come to an end within {canary.within_s} s")
    return Decision(Verdict.WAIT)


def goes_to_candidate(number: int, share_percent: int) -> bool:
    """Whether request `number` (from 0) is one of the share: evenly spread, and exactly that many of every hundred."""
    return (number + 1) * share_percent // 100 > number * share_percent // 100
