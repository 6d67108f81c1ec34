"""One stage from its launch to the verdict: freeze, judge, kill, judge again on the dead tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hermetic.harvest.evidence import Examination, File, Glance, Outcome
from hermetic.harvest.judge import mismatches, reasons_against
from hermetic.harvest.watch import Watch
from hermetic.recipe.harvest import Harvest, Validator

__all__ = ["Conclusion", "Ended", "Session", "Site"]


class Site(Protocol):
    """The effects that a watch needs: the stage's files and processes, and the clock."""

    def glance(self) -> Glance:
        """A cheap look."""

    def examine(self, glance: Glance) -> Examination:
        """A thorough look at what `glance` saw; of the dead tree when the stage has ended."""

    async def freeze(self, within: float) -> bool:
        """Stop every process; False, with all of them running, if that is not done in `within` seconds."""

    def frozen(self) -> bool:
        """Whether every process is (still) stopped."""

    def thaw(self) -> None:
        """Let them go on."""

    async def validate(self, glance: Glance) -> str:
        """Run the declared validator on the artefacts; what it has against them, or ""."""

    async def wait(self, until: float) -> None:
        """Until that moment (monotonic seconds), or sooner if something may have changed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the stage's process ended: one of `status` and `signal`; `stopped` if that was our doing."""

    status: int | None
    signal: int | None
    stopped: bool = False
    oom: bool = False

    def __str__(self) -> str:
        if self.oom:
            return "ran out of memory"
        return f"was killed by signal {self.signal}" if self.status is None else f"exited with status {self.status}"

    @property
    def abnormal(self) -> str:
        """Why nothing that it wrote can be trusted, or ""."""
        return str(self) if self.oom or (self.signal is not None and not self.stopped) else ""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The verdict: `files` below `folder` may be taken if `outcome` is EXITED or HARVESTED.

    `doubts` say why not, `warning` what is odd about a good result, `limit` which limit was reached.
    """

    outcome: Outcome
    folder: str = ""
    files: tuple[File, ...] = ()
    doubts: tuple[str, ...] = ()
    warning: str = ""
    limit: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.outcome in (Outcome.EXITED, Outcome.HARVESTED)


class Session:
    """`oversee` while the stage runs, then `conclude` once it is dead."""

    def __init__(self, harvest: Harvest, site: Site, watch: Watch) -> None:
        self._harvest = harvest
        self._site = site
        self._watch = watch
        self._judged: Glance | None = None
        self._doubts: list[str] = []
        self._refused: tuple[object, str] = (None, "")
        self._limit = ""

    async def oversee(self) -> None:
        """Returns when the stage is to be killed: its artefacts are whole and it is frozen, or a limit is reached."""
        while True:
            glance = self._site.glance()
            if not self._watch.see(glance):
                self._doubts = []
            elif await self._whole(glance):
                return
            self._limit = self._watch.over(glance)
            if self._limit:
                return
            await self._site.wait(self._watch.next_look(glance))

    async def conclude(self, ended: Ended) -> Conclusion:
        """The verdict on the dead tree."""
        glance = self._site.glance()
        seen = replace(self._site.examine(glance), killed=ended.abnormal)
        doubts = reasons_against(self._harvest, seen)
        if ended.stopped and self._judged is None:
            return self._incomplete(glance, doubts)
        if self._judged is not None and glance.signature != self._judged.signature:
            doubts.insert(0, "the artefacts changed after they had been judged")
        if not doubts and self._judged is None:
            doubts = await self._invalid(glance)
        content = seen.contents.get("config.json")
        return Conclusion(
            outcome=_outcome(ended, whole=not doubts),
            folder=glance.folder,
            files=glance.files,
            doubts=tuple(doubts),
            warning="" if ended.stopped or ended.status == 0 else f"it {ended}, with everything it had to write whole",
            config=(content.document or {}) if content is not None else {},
        )

    def _incomplete(self, glance: Glance, doubts: list[str]) -> Conclusion:
        known = list(dict.fromkeys([*doubts, *self._doubts]))  # the dead tree tells nothing of who held what
        known = known or [f"they were still being written less than {self._harvest.settle} s before"]
        return Conclusion(Outcome.INCOMPLETE, glance.folder, glance.files, tuple(known), limit=self._limit)

    async def _whole(self, glance: Glance) -> bool:
        """Judge; if the artefacts are whole the stage stays frozen, else it goes on."""
        # First as it runs, so that only a stage that is probably done is ever stopped.
        self._doubts = reasons_against(self._harvest, self._site.examine(glance))
        if self._doubts or self._refused[0] == glance.signature:
            self._doubts = self._doubts or [self._refused[1]]
            return False
        if not await self._site.freeze(float(self._harvest.grace)):
            self._doubts = [f"its processes could not be stopped within {self._harvest.grace} s"]
            return False
        self._doubts = await self._frozen_doubts(glance)
        if self._doubts:
            self._site.thaw()
            return False
        return True

    async def _frozen_doubts(self, before: Glance) -> list[str]:
        glance = self._site.glance()
        if glance.signature != before.signature:
            self._watch.see(glance)
            return ["the artefacts changed while the processes were being stopped"]
        doubts = reasons_against(self._harvest, self._site.examine(glance))
        doubts = doubts or await self._invalid(glance)
        if not self._site.frozen():
            doubts.append("a process went on while the artefacts were judged")
        self._judged = glance if not doubts else None
        return doubts

    async def _invalid(self, glance: Glance) -> list[str]:
        if not isinstance(self._harvest.complete, Validator):
            return []
        problem = await self._site.validate(glance)
        if problem:
            self._refused = (glance.signature, problem)
        return [problem] if problem else []

    def mismatches(self, conclusion: Conclusion) -> list[str]:
        """Where the engine is whole, but not the one that was asked for."""
        return mismatches(self._harvest, conclusion.config)


def _outcome(ended: Ended, *, whole: bool) -> Outcome:
    if whole:
        return Outcome.EXITED if ended.status == 0 and not ended.stopped else Outcome.HARVESTED
    return Outcome.EMPTY if ended.status == 0 and not ended.oom else Outcome.CRASHED
