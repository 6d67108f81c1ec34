"""A build's harvest: the session over the sandbox, its verdict as an error or as a folder to ingest."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hermetic.derivation import Derivation
from hermetic.errors import Domain, HermeticError
from hermetic.harvest import Conclusion, Ended, File, Outcome, RealSite, Session, Watch, WatchLimits, take, too_small
from hermetic.realise.launcher import Launcher, Program
from hermetic.realise.limits import exceeded, limits_of
from hermetic.recipe.harvest import Harvest
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.processes import Tree
from hermetic.sandbox.runner import Exit

__all__ = ["Harvester"]


@dataclass(frozen=True, slots=True)
class _Limits:
    wall: int
    silence: int


class Harvester:
    """Made for one attempt. `oversee` goes to the runner, `hear` gets the output, `conclude` comes after the end."""

    def __init__(
        self, derivation: Derivation, launcher: Launcher, mounts: EnvironmentMounts, place: str, log: str
    ) -> None:
        assert derivation.stage.harvest is not None
        self.conclusion: Conclusion | None = None
        self._derivation = derivation
        self._launcher = launcher
        self._mounts = mounts
        self._place = place
        self._log = log
        self._site = RealSite(self._harvest, place, self._validate)
        limits = self._limits()
        watch = Watch(WatchLimits(float(self._harvest.settle), limits.wall, limits.silence), time.monotonic())
        self._session = Session(self._harvest, self._site, watch)

    @property
    def _harvest(self) -> Harvest:
        assert self._derivation.stage.harvest is not None
        return self._derivation.stage.harvest

    @property
    def hear(self) -> Callable[[bytes], None]:
        return self._site.hear

    @property
    def failed(self) -> str:
        """The outcome of a stage that left nothing to take; "" if it is not known, or left everything."""
        return "" if self.conclusion is None or self.conclusion.good else self.conclusion.outcome.value

    async def oversee(self, tree: Tree) -> None:
        """Returns when the stage is to be killed."""
        self._site.tree = tree
        listening = asyncio.ensure_future(self._site.listen())
        try:
            await self._session.oversee()
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def conclude(self, ended: Exit) -> Conclusion:
        """The verdict on the dead tree. Raises `HermeticError` (build or timeout) if there is nothing to take."""
        self._site.tree = None
        how = Ended(ended.status, ended.signal, stopped=ended.stopped, oom=ended.oom)
        self.conclusion = await self._session.conclude(how)
        if not self.conclusion.good:
            beyond = exceeded(self._derivation.stage, self._derivation.name, ended)
            raise beyond or self._failure(self.conclusion, how)
        return self.conclusion

    def take(self, conclusion: Conclusion, inputs: Mapping[str, str]) -> str:
        """Move the artefacts to a folder that can enter the store.

        Raises `HermeticError` (build/harvest-mismatch, build/harvest-too-small, build/harvest-take).
        """
        name = self._derivation.name
        if differing := self._session.mismatches(conclusion):
            message = f"stage {name!r} built an engine other than the one asked for: {'; '.join(differing)}"
            hint = "the builder decides some settings by itself; see what the checkpoint says of its quantisation"
            raise HermeticError(Domain.BUILD, "harvest-mismatch", message, hint=hint)
        for problem in too_small(self._harvest, conclusion.files, inputs):
            message = f"stage {name!r}: {problem}"
            raise HermeticError(Domain.BUILD, "harvest-too-small", message, hint="something is missing in it")
        return take(self._harvest, conclusion, self._place, inputs)

    def record(self) -> dict[str, Any]:
        """What the attempt's record keeps."""
        found = self.conclusion
        if found is None:
            return {}
        last = max((file.changed for file in found.files), default=0)
        document: dict[str, Any] = {
            "folder": found.folder,
            "files": {file.name: file.size for file in found.files},
            "last_write": last / 1e9,
        }
        if found.doubts:
            document["doubts"] = list(found.doubts)
        if found.warning:
            document["warning"] = found.warning
        return {"harvest": document}

    def _limits(self) -> _Limits:
        stage = self._derivation.stage
        return _Limits(stage.timeout or self._harvest.timeout, stage.silence or self._harvest.silence)

    def _failure(self, found: Conclusion, ended: Ended) -> HermeticError:
        name = self._derivation.name
        doubts = "; ".join(doubt for doubt in found.doubts if doubt != ended.abnormal)
        if found.outcome is Outcome.INCOMPLETE:
            message = f"stage {name!r} {found.limit} and was stopped; its artefacts are not complete: {doubts}"
            hint = "raise timeout or silence of the stage or of its harvest (neither is in the key), or see its log"
            return HermeticError(Domain.TIMEOUT, "timed-out-incomplete", message, hint=hint)
        if found.outcome is Outcome.EMPTY:
            message = f"stage {name!r} exited with status 0, but its artefacts are not complete: {doubts}"
            return HermeticError(Domain.BUILD, "exited-incomplete", message)
        how = "was stopped" if ended.stopped else str(ended)
        message = f"stage {name!r} {how}, and its artefacts are not complete{': ' if doubts else ''}{doubts}"
        return HermeticError(Domain.BUILD, "crashed", message)

    async def _validate(self, folder: str, files: tuple[File, ...]) -> str:
        """Run the validator on hard links to the artefacts, in a sandbox of its own, beside the frozen stage."""
        stage = self._derivation.stage
        with self._launcher.run.workspace() as place:
            linked = os.path.join(place.path, "artefacts")
            for file in files:
                target = os.path.join(linked, file.name)
                os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
                os.link(os.path.join(folder, file.name), target, follow_symlinks=False)
            program = Program(
                f"{self._derivation.name}-validator",
                stage.validator_files(),
                stage.parameters_in_full(),
                {"artefacts": linked},
            )
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                limits = replace(limits_of(stage), wall_s=self._limits().wall or None, silence_s=None)
                ended = await self._launcher.launch(program, self._mounts, str(place.path), limits, log=log)
            finally:
                os.close(log)
        if ended.ok:
            return ""
        how = "took too long" if ended.timed_out else str(Ended(ended.status, ended.signal))
        return f"the validator {how}"
