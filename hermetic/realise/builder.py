"""Build one derivation: inputs, sandbox, judgement, store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from hermetic.canonical import Value
from hermetic.derivation import Derivation, SourceInput
from hermetic.digest import ResolvedKey
from hermetic.errors import Domain, HermeticError
from hermetic.realise.events import Event, Listener
from hermetic.realise.launcher import Launcher, Program
from hermetic.realise.output import Lines
from hermetic.realise.resources import Resources
from hermetic.realise.sources import materialise_source
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.plan import Limits
from hermetic.sandbox.runner import Exit
from hermetic.store import Attempt, Realisation, Run, Store, Workspace
from hermetic.store.faults import storing

__all__ = ["Builder"]


@dataclass
class Builder:
    """Everything that builds of one run share."""

    store: Store
    run: Run
    launcher: Launcher
    resources: Resources
    listener: Listener
    keep_failed: bool = False
    _sources: dict[str, asyncio.Task[str]] = field(default_factory=dict)

    async def adopt(
        self, derivation: Derivation, equal: Realisation, resolved: ResolvedKey, inputs: Mapping[str, Realisation]
    ) -> Realisation:
        """Give `equal`'s output to `derivation` as well: its inputs are the same bytes."""
        return await asyncio.to_thread(
            self.run.adopt,
            equal,
            key=derivation.key,
            name=derivation.name,
            preimage=derivation.preimage,
            resolved=resolved,
            platform=_platform(derivation),
            impure=_impure(inputs),
        )

    async def build(
        self, derivation: Derivation, inputs: Mapping[str, Realisation], resolved: ResolvedKey | None
    ) -> Realisation:
        """Run the stage and take what it leaves; without `resolved` nobody will adopt it.

        Raises `HermeticError` with domain build, timeout or environment.
        """
        self._state(derivation, "preparing")
        mounts = await self.launcher.environment(
            derivation.stage.environment,
            lambda what, done, total: self._tell("progress", derivation, what=what, done=done, total=total),
        )
        sources = {role: await self._source(item) for role, item in _sources_of(derivation)}
        async with self.resources.use(derivation.stage):
            return await self._run(derivation, inputs, resolved, mounts, sources)

    async def _run(
        self,
        derivation: Derivation,
        inputs: Mapping[str, Realisation],
        resolved: ResolvedKey | None,
        mounts: EnvironmentMounts,
        sources: Mapping[str, str],
    ) -> Realisation:
        place = self.run.workspace()
        attempt = self.store.start_attempt(derivation.key, derivation.name)
        outcome = "crashed"
        try:
            paths = {role: str(self.store.path(found.key, found.name)) for role, found in inputs.items()}
            program = _program(derivation, {**paths, **sources})
            self._state(derivation, "building", log=str(attempt.log))
            ended = await self._launch(program, derivation, mounts, place, attempt)
            self._judge(derivation, ended, attempt, place)
            self._state(derivation, "storing")
            realisation = await asyncio.to_thread(self._take, derivation, inputs, resolved, place, attempt)
            outcome = "exited"
            return realisation
        except HermeticError as error:
            outcome = "timed-out" if error.domain is Domain.TIMEOUT else "failed"
            error.data.setdefault("stage", derivation.name)
            raise
        except asyncio.CancelledError:
            outcome = "stopped"
            raise
        finally:
            # The workspace first: on a full disk the record can only be written once its space is free again.
            place.close(keep=self.keep_failed and outcome in ("failed", "timed-out"))
            attempt.finish(outcome)

    async def _launch(
        self, program: Program, derivation: Derivation, mounts: EnvironmentMounts, place: Workspace, attempt: Attempt
    ) -> Exit:
        lines = Lines(lambda line: self._tell("output", derivation, line=line))
        limits = Limits(wall_s=derivation.stage.timeout or None)
        log = os.open(attempt.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            with storing(str(self.store.root)):  # a stage that fills the disk leaves no room for its log either
                return await self.launcher.launch(program, mounts, str(place.path), limits, log=log, on_output=lines)
        finally:
            os.close(log)

    def _judge(self, derivation: Derivation, ended: Exit, attempt: Attempt, place: Workspace) -> None:
        if ended.ok:
            return
        tail = _tail(str(attempt.log))
        kept = f"; its workspace is kept at {place.path}" if self.keep_failed else ""
        if ended.timed_out:
            message = f"stage {derivation.name!r} ran longer than {derivation.stage.timeout} s and was stopped{kept}"
            hint = "raise the stage's timeout; it is not part of the key"
            raise HermeticError(Domain.TIMEOUT, "stage-timed-out", message, hint=hint, data={"log_tail": tail})
        how = f"exited with status {ended.status}" if ended.signal is None else f"was killed by signal {ended.signal}"
        if ended.oom:
            how = "ran out of memory"
        reason = "out-of-memory" if ended.oom else "stage-failed"
        hint = f"hermetic log {derivation.key.base32} shows all it printed"
        if not self.keep_failed:
            hint += "; --keep-failed keeps its workspace"
        message = f"stage {derivation.name!r} {how}{kept}"
        raise HermeticError(Domain.BUILD, reason, message, hint=hint, data={"log_tail": tail})

    def _take(
        self,
        derivation: Derivation,
        inputs: Mapping[str, Realisation],
        resolved: ResolvedKey | None,
        place: Workspace,
        attempt: Attempt,
    ) -> Realisation:
        return self.run.ingest(
            place.path / "out",
            key=derivation.key,
            name=derivation.name,
            preimage=derivation.preimage,
            resolved=resolved,
            platform=_platform(derivation),
            impure=_impure(inputs),
            build=attempt.id,
            progress=lambda done, total: self._tell("progress", derivation, done=done, total=total),
        )

    async def _source(self, item: SourceInput) -> str:
        """The store path of a source: a stage reads a copy that nobody can change under it."""
        path = item.source.path
        if path not in self._sources:
            work = asyncio.to_thread(materialise_source, item, self.store, self.run)
            self._sources[path] = asyncio.create_task(work)
        return await asyncio.shield(self._sources[path])

    def _state(self, derivation: Derivation, state: str, **data: object) -> None:
        self._tell("state", derivation, state=state, **data)

    def _tell(self, kind: str, derivation: Derivation, **data: object) -> None:
        self.listener(Event(kind, derivation.name, derivation.key.hex, data))


def _program(derivation: Derivation, inputs: Mapping[str, str]) -> Program:
    stage = derivation.stage
    return Program(derivation.name, stage.program_files(), stage.parameters_in_full(), inputs)


def _sources_of(derivation: Derivation) -> list[tuple[str, SourceInput]]:
    return [(role, item) for role, item in derivation.inputs.items() if isinstance(item, SourceInput)]


def _platform(derivation: Derivation) -> Mapping[str, Value]:
    platform = derivation.preimage.get("platform", {})
    return platform if isinstance(platform, dict) else {}


def _impure(inputs: Mapping[str, Realisation]) -> bool:
    return any(found.impure for found in inputs.values())


def _tail(path: str, lines: int = 20) -> list[str]:
    with open(path, "rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 16384))
        return stream.read().decode("utf-8", "replace").splitlines()[-lines:]
