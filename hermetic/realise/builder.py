"""Build one derivation: workspace, environment, sandbox, judgement, store."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from hermetic.canonical import Value, encode
from hermetic.derivation import Derivation, SourceInput
from hermetic.digest import ResolvedKey
from hermetic.errors import Domain, HermeticError
from hermetic.realise.events import Event, Listener
from hermetic.realise.output import Lines
from hermetic.realise.resources import Resources
from hermetic.realise.sources import materialise_source
from hermetic.recipe.environments import Environment
from hermetic.sandbox import abi, environments, runner, workspace
from hermetic.sandbox.environments import EnvironmentMounts, Identity
from hermetic.sandbox.plan import LaunchPlan, Limits
from hermetic.sandbox.runner import Exit
from hermetic.store import Attempt, Realisation, Run, Store, Workspace

__all__ = ["Builder"]


@dataclass
class Builder:
    """Everything that builds of one run share."""

    store: Store
    run: Run
    identities: Mapping[Environment, Identity]
    resources: Resources
    listener: Listener
    keep_failed: bool = False
    indexes: Mapping[str, str] = field(default_factory=dict)
    _environments: dict[Environment, asyncio.Task[EnvironmentMounts]] = field(default_factory=dict)
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
        self, derivation: Derivation, inputs: Mapping[str, Realisation], resolved: ResolvedKey
    ) -> Realisation:
        """Run the stage and take what it leaves. Raises `HermeticError` with domain build, timeout or environment."""
        self._state(derivation, "preparing")
        mounts = await self._environment(derivation)
        sources = {role: await self._source(role, item) for role, item in _sources_of(derivation)}
        async with self.resources.use(derivation.stage):
            return await self._run(derivation, inputs, resolved, mounts, sources)

    async def _run(
        self,
        derivation: Derivation,
        inputs: Mapping[str, Realisation],
        resolved: ResolvedKey,
        mounts: EnvironmentMounts,
        sources: Mapping[str, str],
    ) -> Realisation:
        place = self.run.workspace()
        attempt = self.store.start_attempt(derivation.key, derivation.name)
        outcome = "crashed"
        try:
            paths = {role: str(self.store.path(found.key, found.name)) for role, found in inputs.items()}
            await asyncio.to_thread(_lay_out, str(place.path), derivation, paths, sources)
            self._state(derivation, "building", log=str(attempt.log))
            ended = await self._launch(derivation, mounts, place, attempt)
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
            attempt.finish(outcome)
            place.close(keep=self.keep_failed and outcome in ("failed", "timed-out"))

    async def _launch(
        self, derivation: Derivation, mounts: EnvironmentMounts, place: Workspace, attempt: Attempt
    ) -> Exit:
        stage = derivation.stage
        plan = LaunchPlan(
            argv=_command(derivation, mounts),
            workspace=str(place.path),
            mounts=tuple(mounts.mounts),
            environment=mounts.variables,
            limits=Limits(wall_s=stage.timeout or None),
            symlinks=mounts.symlinks,
        )
        lines = Lines(lambda line: self._tell("output", derivation, line=line))
        with open(attempt.log, "ab") as log:
            return await runner.run(plan, log=log.fileno(), on_output=lines)

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
        resolved: ResolvedKey,
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

    async def _environment(self, derivation: Derivation) -> EnvironmentMounts:
        """One materialisation per environment, however many stages wait for it."""
        environment = derivation.stage.environment
        if environment not in self._environments:

            def progress(what: str, done: int, total: int | None) -> None:
                self._tell("progress", derivation, what=what, done=done, total=total)

            work = environments.materialise(
                environment,
                self.identities[environment],
                self.run,
                progress=progress,
                indexes=self.indexes,
            )
            self._environments[environment] = asyncio.create_task(work)
        return await asyncio.shield(self._environments[environment])

    async def _source(self, role: str, item: SourceInput) -> str:
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


def _command(derivation: Derivation, mounts: EnvironmentMounts) -> tuple[str, ...]:
    """The command line of a stage: ``.py`` programs run under the environment's Python, others by themselves."""
    program = f"{abi.PROGRAM}/{next(iter(derivation.stage.program_files()))}"
    if not program.endswith(".py"):
        return (program,)
    if not mounts.python:
        message = f"{derivation.stage.where}: stage {derivation.name!r} is a .py program, but its environment has no Python"
        hint = "give Host a python=..., or use a PythonEnv"
        raise HermeticError(Domain.RECIPE, "no-python", message, hint=hint)
    return (*mounts.python, program)


def _sources_of(derivation: Derivation) -> list[tuple[str, SourceInput]]:
    return [(role, item) for role, item in derivation.inputs.items() if isinstance(item, SourceInput)]


def _lay_out(place: str, derivation: Derivation, built: Mapping[str, str], sources: Mapping[str, str]) -> None:
    """Fill the workspace with inputs, program and parameters."""
    workspace.prepare(place)
    roles = workspace.stage_inputs(place, {**built, **sources})
    for name, path in derivation.stage.program_files().items():
        shutil.copyfile(path, os.path.join(place, "program", name))
        if os.stat(path).st_mode & 0o100:
            os.chmod(os.path.join(place, "program", name), 0o755)
    description = {
        "name": derivation.name,
        "parameters": derivation.stage.parameters_in_full(),
        "inputs": dict(roles),
        "out": abi.OUT,
    }
    with open(os.path.join(place, "stage.json"), "wb") as stream:
        stream.write(encode(description))  # type: ignore[arg-type]


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
