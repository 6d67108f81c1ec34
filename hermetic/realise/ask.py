"""Run a realised engine: its own environment, its own runner program, the same sandbox as its build."""

from __future__ import annotations

import asyncio
import os
import shutil
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
    sound: str = "",
) -> None:
    """Put `parameters` to the runner of the target stage, whose output is realised, and give its answer to `write`.

    `sound` is the file that a stage is asked with which takes one.

    Raises `HermeticError`: usage/nothing-to-run for a stage that is no engine, build/run-failed with what the runner
    said last. Must be called from the main thread.
    """
    target = evaluated.wanted[0]
    if target.fixed is not None or not target.stage.runner:
        engines = [name for name, stage in evaluated.recipe.stages.items() if stage.runner]
        hint = f"these can be run: {', '.join(engines)}" if engines else None
        raise HermeticError(Domain.USAGE, "nothing-to-run", f"stage {target.name!r} is no engine", hint=hint)
    with store.begin() as run:
        asyncio.run(_ask(target, store, run, parameters, write, indexes, memo, sound))


async def _ask(
    target: Derivation,
    store: Store,
    run: Run,
    parameters: Mapping[str, Value],
    write: Callable[[bytes], None],
    indexes: Mapping[str, str],
    memo: Memo,
    sound: str,
) -> None:
    run.lease([target.key])
    environment = target.stage.run_environment
    launcher = Launcher(run, {environment: identify(environment, memo)}, indexes)
    mounts = await launcher.environment(environment, lambda *_: None)
    files = target.stage.files_of(target.stage.runner)
    told = {**target.stage.run_parameters(), **parameters}
    inputs = {"engine": str(store.path(target.key, target.name))}
    program = Program(target.name, files, told, inputs)
    who = f"stage {target.name!r}"
    errors = os.memfd_create("errors", os.MFD_CLOEXEC)
    try:
        with run.workspace() as place:
            if sound:  # a copy: it may be of another file system, and only its owner may read it
                inputs["sound"] = shutil.copyfile(sound, f"{place.path}/sound.wav")
                os.chmod(inputs["sound"], 0o444)
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
    message = f"{target.name!r} did not answer to the end"
    return HermeticError(Domain.BUILD, "run-failed", message, data={"log_tail": tail})
