"""Triton in a sandbox: started, waited for, and gone with whoever started it.

The environment is that of a hashed lock, an image or a Triton of this machine (`launch_place`); engine, tokenizer and
repository are mounted read-only where the repository says, and only the network is this machine's own. Its life hangs
on this process as a stage's does: a guard kills all of it when this one dies, and ``/dev/shm`` is the sandbox's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hermetic.canonical import encode
from hermetic.errors import Domain, HermeticError
from hermetic.llm.triton import Repository, server_environment
from hermetic.realise.launcher import Launcher, Program, description, lay_out, plan_of
from hermetic.recipe import Image, Memo
from hermetic.sandbox import abi, runner
from hermetic.sandbox.environments import EnvironmentMounts, identify
from hermetic.sandbox.plan import LaunchPlan, Limits, Mount
from hermetic.sandbox.runner import Exit
from hermetic.serve.launch_command import Settings
from hermetic.serve.launch_place import Start, placed, program_files
from hermetic.serve.launch_ports import insist_on_free
from hermetic.serve.launch_watch import Talk, Watch, limit_of, until_ready
from hermetic.serve.triton_deployment import Deployment, read_deployment, verify
from hermetic.serve.triton_needs import Known
from hermetic.store import Run

__all__ = ["Served", "Subject", "launcher_of", "lay_out_repository", "serving"]

_UNLOADING_S: Final = 5  # Triton looks once a second whether its models have gone


@dataclass(frozen=True)
class Subject:
    """What is to be served: folders of this machine. `repository` has ``deployment.json`` and ``repository/``.

    `known` is what else is known of the engine, and `image` what its recipe serves it in.
    """

    name: str
    repository: str
    engine: str
    tokenizer: str
    known: Known = field(default_factory=Known)
    image: Image | None = None


@dataclass(frozen=True)
class Served:
    """A server that is ready. `ended` is done when it has gone, with how; nobody else may await it uncancelled."""

    subject: Subject
    deployment: Deployment
    settings: Settings
    ended: asyncio.Future[Exit]
    watch: Watch
    talk: Talk

    def insist(self) -> None:
        """Raises `HermeticError` (environment/triton-ended) with its last words if it has gone."""
        if self.ended.done():
            message = f"Triton ended by itself: {_how(self.ended.result())}"
            data = {"log_tail": self.watch.tail()}
            raise HermeticError(Domain.ENVIRONMENT, "triton-ended", message, hint=self.talk.where, data=data)

    @property
    def grpc(self) -> str:
        """Where clients of gRPC connect: host and port."""
        return self.settings.grpc


def launcher_of(run: Run, indexes: Mapping[str, str], memo: Memo, runtime: str = "bwrap") -> Launcher:
    """A launcher that knows the server's environment, under `runtime`, "bwrap" or "podman"."""
    environment = server_environment()
    return Launcher(run, {environment: identify(environment, memo)}, indexes, runtime)


@contextlib.asynccontextmanager
async def serving(subject: Subject, launcher: Launcher, settings: Settings, talk: Talk) -> AsyncIterator[Served]:
    """Verify engine and tokenizer, start Triton, and yield it once it is ready; drain and end it on the way out.

    Raises `HermeticError`: trust/engine-changed and trust/tokenizer-changed before anything is started,
    busy/port-in-use, what `placed` and `until_ready` raise, environment/triton-failed with what it said last if it ends
    before it is ready. Must be used on the main thread.
    """
    insist_on_free(settings.host, vars(settings.ports))
    deployment = read_deployment(subject.repository)
    subject = replace(subject, tokenizer=os.path.join(subject.tokenizer, deployment.tokenizer_folder).rstrip("/"))
    talk.tell(f"every file of the engine is compared with its manifest: {len(deployment.engine_files)}")
    await asyncio.to_thread(verify, "engine", subject.engine, deployment.engine_files, whole=True)
    await asyncio.to_thread(verify, "tokenizer", subject.tokenizer, deployment.tokenizer_files, whole=False)
    async with placed(subject, deployment, launcher, settings, talk.tell) as start:
        with launcher.run.workspace() as workspace:
            plan = await asyncio.to_thread(_plan, subject, settings, start, str(workspace.path))
            limit = limit_of(settings, deployment.engine_files)
            within = f"it has {limit} s" if limit else "however long it takes"
            talk.tell(f"Triton is started; {within}" + (f", and logs to {talk.log}" if talk.log else ""))
            async with _running(plan, launcher.runtime, settings.drain_s, talk) as (ended, watch, inside):
                await until_ready(watch, ended, limit, talk)
                if ended.done():
                    raise _failed(ended.result(), watch, talk)
                os.write(inside, b"1")  # from here on nothing of it may die
                either: list[asyncio.Future[Any]] = [watch.guarded, ended]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                yield Served(subject, deployment, settings, ended, watch, talk)


def _plan(subject: Subject, settings: Settings, start: Start, place: str) -> LaunchPlan:
    program = Program(subject.name, program_files(start.programs), start.parameters, {})
    folders = {"engine": subject.engine, "tokenizer": subject.tokenizer, "repository": subject.repository}
    plan = _mounted(program, start.mounts, place, folders, Limits(shm_mb=settings.shm_mb))
    return replace(plan, network=True)


def _mounted(
    program: Program, mounts: EnvironmentMounts, place: str, folders: Mapping[str, str], limits: Limits
) -> LaunchPlan:
    """The plan of `program` with `folders` mounted as its inputs, by role, where a build's would be linked or copied:
    an engine may lie on another file system than the store.
    """
    lay_out(place, program)
    for role in folders:
        os.mkdir(f"{place}/in/{role}")
    with open(f"{place}/stage.json", "wb") as stream:
        stream.write(encode(description(program, {role: f"{abi.IN}/{role}" for role in folders})))
    bound = tuple(Mount(os.path.realpath(path), f"{abi.IN}/{role}") for role, path in folders.items())
    plan = plan_of(program, mounts, place, limits)
    return replace(plan, mounts=(*plan.mounts, *bound))


@contextlib.asynccontextmanager
async def _running(
    plan: LaunchPlan, runtime: str, drain_s: int, talk: Talk
) -> AsyncIterator[tuple[asyncio.Future[Exit], Watch, int]]:
    """The plan, started, and the end of a pipe to its standard input; ended on the way out, gently if this is not the
    way of an error.

    A client that holds a stream open without asking anything keeps Triton for ever, so patience has an end here too.
    """
    inside, ours = os.pipe2(os.O_CLOEXEC)
    watch = Watch(talk)
    running = runner.run(plan, log=None, on_output=watch.heard, stdin=inside, runtime=runtime)
    ended = asyncio.ensure_future(running)
    try:
        yield ended, watch, ours
        os.close(ours)
        ours = -1
        await asyncio.wait([ended], timeout=drain_s + _UNLOADING_S)
    finally:
        ended.cancel()
        await asyncio.wait([ended])
        watch.close()
        os.close(inside)
        if ours >= 0:
            os.close(ours)


def _how(ended: Exit) -> str:
    return f"status {ended.status}" if ended.status is not None else f"signal {ended.signal}"


def _failed(ended: Exit, watch: Watch, talk: Talk) -> HermeticError:
    message = f"Triton ended with {_how(ended)} before it was ready"
    data = {"log_tail": watch.tail()}
    return HermeticError(Domain.ENVIRONMENT, "triton-failed", message, hint=talk.where, data=data)


async def lay_out_repository(
    name: str, launcher: Launcher, folders: Mapping[str, str], options: Mapping[str, int | bool], place: str
) -> str:
    """The repository of an engine that no recipe made one for, in the workspace at `place`; where it lies.

    `folders` are those of the stage `Repository` by role, `options` its parameters. Raises `HermeticError`
    (recipe/repository-failed) with what the stage said.
    """
    mounts = await launcher.environment(next(iter(launcher.identities)), lambda *_: None)
    defaults = {name: Repository.model_fields[name].get_default(call_default_factory=True) for name in _OPTIONS}
    program = Program(name, program_files(Repository.programs), {**defaults, **options}, {})
    plan = await asyncio.to_thread(_mounted, program, mounts, place, folders, Limits())
    watch = Watch(Talk(tell=lambda _: None))
    ended = await runner.run(plan, log=None, on_output=watch.heard, runtime=launcher.runtime)
    watch.close()
    if not ended.ok:
        message = f"{folders['engine']} cannot be served: {_how(ended)}"
        raise HermeticError(Domain.RECIPE, "repository-failed", message, data={"log_tail": watch.tail()})
    return f"{place}/out"


_OPTIONS: Final = (
    "max_seq_len", "max_batch_size", "kv_cache_gib", "kv_cache_reuse", "chunked_context", "guided_decoding", "bls",
    "queue_delay_us", "queue_size", "parameters",
)  # fmt: skip
