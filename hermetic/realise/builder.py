"""Build one derivation: inputs, sandbox, judgement, store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hermetic.canonical import Value
from hermetic.derivation import Derivation, FixedInput, SourceInput
from hermetic.digest import ResolvedKey
from hermetic.errors import Domain, HermeticError
from hermetic.realise.events import Event, Listener
from hermetic.realise.gpus import granted
from hermetic.realise.harvesting import Harvester
from hermetic.realise.launcher import Launcher, Program
from hermetic.realise.limits import exceeded, known, limits_of, require_disk
from hermetic.realise.output import Lines
from hermetic.realise.resources import Resources
from hermetic.realise.sources import materialise_source
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.runner import Exit
from hermetic.store import Attempt, Realisation, Run, Store, Workspace
from hermetic.store.faults import storing

__all__ = ["Builder", "Built"]

#: Failures of the stage itself, which its log explains.
_OF_STAGES: Final = frozenset(
    {
        "crashed",
        "exited-incomplete",
        "harvest-mismatch",
        "harvest-take",
        "harvest-too-small",
        "out-of-disk",
        "out-of-memory",
        "stage-failed",
        "stage-silent",
        "stage-timed-out",
        "timed-out-incomplete",
    }
)


@dataclass(frozen=True, slots=True)
class Built:
    """A new realisation and how its stage ended: `outcome` is the attempt's, `warning` what is odd about it.

    `used` is what `Usage.as_json` says.
    """

    realisation: Realisation
    outcome: str
    warning: str = ""
    used: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Builder:
    """Everything that builds of one run share."""

    store: Store
    run: Run
    launcher: Launcher
    resources: Resources
    listener: Listener
    keep_failed: bool = False
    _storing: asyncio.Semaphore = field(init=False)
    _sources: dict[str, asyncio.Task[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._storing = asyncio.Semaphore(self.resources.cores)

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
    ) -> Built:
        """Run the stage and take what it leaves; without `resolved` nobody will adopt it.

        Raises `HermeticError` with domain build, timeout or environment.
        """
        self._state(derivation, "preparing")
        mounts = await self.launcher.environment(
            derivation.stage.environment,
            lambda what, done, total: self._tell("progress", derivation, what=what, done=done, total=total),
        )
        places = await self.places(derivation, inputs)
        async with AsyncExitStack() as held:
            # The GPU first: who waits for one must not keep cores from those who need none.
            waits = self._waits(derivation)
            lease = granted(derivation.stage.gpu, f"stage {derivation.name!r}", self.launcher, mounts, waits)
            given = await held.enter_async_context(lease)
            await held.enter_async_context(self.resources.use(derivation.stage))
            return await self._run(derivation, inputs, resolved, given, places, held)

    def _waits(self, derivation: Derivation) -> Callable[[str], None]:
        return lambda what: self._state(derivation, "waiting", because=f"it needs {what}")

    async def places(self, derivation: Derivation, inputs: Mapping[str, Realisation]) -> dict[str, str]:
        """Where each input lies on this machine, by role: store paths, sources included."""
        built = {role: _place(derivation, role, str(found.path(self.store))) for role, found in inputs.items()}
        return built | {role: await self._source(item) for role, item in _sources_of(derivation)}

    async def _run(
        self,
        derivation: Derivation,
        inputs: Mapping[str, Realisation],
        resolved: ResolvedKey | None,
        mounts: EnvironmentMounts,
        places: Mapping[str, str],
        held: AsyncExitStack,
    ) -> Built:
        place = self.run.workspace()
        attempt = self.store.start_attempt(derivation.key, derivation.name)
        outcome, status = "crashed", None
        harvester: Harvester | None = None
        facts: dict[str, Any] = {}
        try:
            require_disk(derivation.stage, derivation.name, str(self.store.root))
            program = _program(derivation, places)
            if derivation.stage.harvest is not None:
                harvester = Harvester(derivation, self.launcher, mounts, str(place.path), str(attempt.log))
            self._state(derivation, "building", log=str(attempt.log))
            ended = await self._launch(program, derivation, mounts, place, attempt, harvester)
            status, facts = ended.status, known(ended)
            if harvester is None:
                self._judge(derivation, ended)
                output, good, warning = place.path / "out", "exited", ""
            else:
                conclusion = await harvester.conclude(ended)
                good, warning = conclusion.outcome.value, conclusion.warning
                output = Path(await asyncio.to_thread(harvester.take, conclusion, program.inputs))
            async with self._storing:
                await held.aclose()  # the next stage may run; as many as run at once are stored at once
                self._state(derivation, "storing")
                realisation = await asyncio.to_thread(self._take, derivation, inputs, resolved, output, attempt)
            outcome = good
            return Built(realisation, outcome, warning, facts["used"])
        except HermeticError as error:
            outcome = harvester.failed if harvester is not None else ""
            outcome = outcome or ("timed-out" if error.domain is Domain.TIMEOUT else "failed")
            error.data.update(facts)
            self._explain(error, derivation, attempt, place)
            raise
        except asyncio.CancelledError:
            outcome = "stopped"
            raise
        finally:
            # The workspace first: on a full disk the record can only be written once its space is free again.
            keep = self.keep_failed and outcome not in ("exited", "harvested", "stopped")
            facts |= {"workspace": str(place.path)} if keep else {}
            facts |= {"gpu": dict(mounts.gpu.seen)} if mounts.gpu is not None else {}
            facts |= harvester.record() if harvester is not None else {}

            def end() -> None:
                place.close(keep=keep)
                attempt.finish(outcome, status=status, **facts)

            # In a thread, since removing what was a mount point waits 3 ms for the kernel to forget the mount; and to
            # its end, whatever is cancelled meanwhile.
            await asyncio.shield(asyncio.to_thread(end))

    async def _launch(
        self,
        program: Program,
        derivation: Derivation,
        mounts: EnvironmentMounts,
        place: Workspace,
        attempt: Attempt,
        harvester: Harvester | None,
    ) -> Exit:
        lines = Lines(lambda line: self._tell("output", derivation, line=line))
        limits = limits_of(derivation.stage)

        def both(data: bytes) -> None:
            assert harvester is not None
            harvester.hear(data)
            lines(data)

        watched: dict[str, Any] = {"limits": limits, "on_output": lines}
        if harvester is not None:  # which has limits of its own
            limits = replace(limits, wall_s=None, silence_s=None)
            watched = {"limits": limits, "on_output": both, "overseer": harvester.oversee}
        log = os.open(attempt.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            with storing(str(self.store.root)):  # a stage that fills the disk leaves no room for its log either
                return await self.launcher.launch(program, mounts, str(place.path), log=log, **watched)
        finally:
            os.close(log)

    def _judge(self, derivation: Derivation, ended: Exit) -> None:
        if ended.ok:
            return
        stage = derivation.stage
        if (error := exceeded(stage, derivation.name, ended)) is not None:
            raise error  # before the time: a process that was killed for memory may be what the others waited for
        if ended.timed_out or ended.silent:
            how = f"ran longer than {stage.timeout} s" if ended.timed_out else f"printed nothing for {stage.silence} s"
            field = "timeout" if ended.timed_out else "silence"
            message = f"stage {derivation.name!r} {how} and was stopped"
            hint = f"raise the stage's {field}; it is not part of the key"
            raise HermeticError(
                Domain.TIMEOUT, "stage-timed-out" if ended.timed_out else "stage-silent", message, hint=hint
            )
        how = f"exited with status {ended.status}" if ended.signal is None else f"was killed by signal {ended.signal}"
        raise HermeticError(Domain.BUILD, "stage-failed", f"stage {derivation.name!r} {how}")

    def _explain(self, error: HermeticError, derivation: Derivation, attempt: Attempt, place: Workspace) -> None:
        """Add to a failure what its reader needs next: the end of the log, and where the rest is."""
        error.data.setdefault("stage", derivation.name)
        if error.reason not in _OF_STAGES:
            return
        error.data.setdefault("log_tail", _tail(str(attempt.log)))
        if self.keep_failed:
            error.message += f"; its workspace is kept at {place.path}"
        if error.hint is None:
            error.hint = f"hermetic log {derivation.key.base32} shows all it printed"
            error.hint += "" if self.keep_failed else "; --keep-failed keeps its workspace"

    def _take(
        self,
        derivation: Derivation,
        inputs: Mapping[str, Realisation],
        resolved: ResolvedKey | None,
        output: Path,
        attempt: Attempt,
    ) -> Realisation:
        return self.run.ingest(
            output,
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


def _place(derivation: Derivation, role: str, path: str) -> str:
    item = derivation.inputs[role]
    return item.place(path) if isinstance(item, FixedInput) else path


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
