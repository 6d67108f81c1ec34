"""Run a realised engine: its own environment, its own runner program, the same sandbox as its build."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from hermetic.canonical import Value
from hermetic.derivation import Derivation
from hermetic.errors import Domain, HermeticError
from hermetic.realise.evaluated import Evaluated
from hermetic.realise.gpus import granted
from hermetic.realise.launcher import Launcher, Program
from hermetic.recipe import Memo
from hermetic.sandbox.environments import identify
from hermetic.sandbox.plan import Limits
from hermetic.store import Run, Store

__all__ = ["ask"]


def ask(
    evaluated: Evaluated,
    store: Store,
    parameters: Mapping[str, Value],
    write: Callable[[bytes], None],
    indexes: Mapping[str, str],
    memo: Memo,
) -> None:
    """Put `parameters` to the runner of the target stage, whose output is realised, and give its answer to `write`.

    Raises `HermeticError`: usage/nothing-to-run for a stage that is no engine, build/run-failed with what the runner
    said last. Must be called from the main thread.
    """
    target = evaluated.wanted[0]
    if target.fixed is not None or not target.stage.runner:
        engines = [name for name, stage in evaluated.recipe.stages.items() if stage.runner]
        hint = f"these can be run: {', '.join(engines)}" if engines else None
        raise HermeticError(Domain.USAGE, "nothing-to-run", f"stage {target.name!r} is no engine", hint=hint)
    with store.begin() as run:
        asyncio.run(_ask(target, store, run, parameters, write, indexes, memo))


async def _ask(
    target: Derivation,
    store: Store,
    run: Run,
    parameters: Mapping[str, Value],
    write: Callable[[bytes], None],
    indexes: Mapping[str, str],
    memo: Memo,
) -> None:
    run.lease([target.key])
    environment = target.stage.run_environment
    launcher = Launcher(run, {environment: identify(environment, memo)}, indexes)
    mounts = await launcher.environment(environment, lambda *_: None)
    files = target.stage.files_of(target.stage.runner)
    told = {**target.stage.run_parameters(), **parameters}
    program = Program(target.name, files, told, {"engine": str(store.path(target.key, target.name))})
    who = f"stage {target.name!r}"
    errors = os.memfd_create("errors", os.MFD_CLOEXEC)
    try:
        with run.workspace() as place:
            async with granted(target.stage.run_gpu, who, launcher, mounts, _nobody) as given:
                ended = await launcher.launch(program, given, str(place.path), Limits(), log=errors, on_answer=write)
        if not ended.ok:
            raise _failed(target, errors)
    finally:
        os.close(errors)


def _nobody(_: str) -> None:
    """Who asks an engine sees that it waits."""


def _failed(target: Derivation, errors: int) -> HermeticError:
    os.lseek(errors, 0, os.SEEK_SET)
    with open(os.dup(errors), "rb") as stream:
        tail = stream.read().decode("utf-8", "replace").splitlines()[-20:]
    return HermeticError(Domain.BUILD, "run-failed", f"{target.name!r} gave no answer", data={"log_tail": tail})
