"""Programs in sandboxes: environments made once a run, workspaces laid out, one launch each."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hermetic.canonical import Value, encode
from hermetic.errors import Domain, HermeticError
from hermetic.recipe.environments import Environment
from hermetic.sandbox import abi, environments, runner, workspace
from hermetic.sandbox.environments import EnvironmentMounts, Identity
from hermetic.sandbox.plan import LaunchPlan, Limits
from hermetic.sandbox.runner import Exit, Overseer
from hermetic.store import Run

__all__ = ["Launcher", "Program", "description", "lay_out", "plan_of"]


@dataclass(frozen=True)
class Program:
    """What is run: `files` by the name they have under ``/build/program``, of which the first is started.

    `inputs` are paths of this machine by role; `name` and `parameters` are what ``/build/stage.json`` says.
    """

    name: str
    files: Mapping[str, str]
    parameters: Mapping[str, Value]
    inputs: Mapping[str, str]

    def command(self, mounts: EnvironmentMounts) -> tuple[str, ...]:
        """``.py`` programs run under the environment's Python, others by themselves."""
        entry = next(iter(self.files))
        if not entry.endswith(".py"):
            return (f"{abi.PROGRAM}/{entry}",)
        if not mounts.python:
            message = f"stage {self.name!r} runs {entry}, but its environment has no Python"
            hint = "give Host a python=..., or use a PythonEnv"
            raise HermeticError(Domain.RECIPE, "no-python", message, hint=hint)
        return (*mounts.python, f"{abi.PROGRAM}/{entry}")


@dataclass
class Launcher:
    """Starts programs for one run of the store, under `runtime` ("bwrap" or "podman")."""

    run: Run
    identities: Mapping[Environment, Identity]
    indexes: Mapping[str, str] = field(default_factory=dict)
    runtime: str = "bwrap"
    _environments: dict[Environment, asyncio.Task[EnvironmentMounts]] = field(default_factory=dict)

    async def environment(
        self, environment: Environment, progress: Callable[[str, int, int | None], None]
    ) -> EnvironmentMounts:
        """The mounts of `environment`; made once, however many stages wait for it."""
        if environment not in self._environments:
            work = environments.materialise(
                environment,
                self.identities[environment],
                self.run,
                progress=progress,
                indexes=self.indexes,
                runtime=self.runtime,
            )
            self._environments[environment] = asyncio.create_task(work)
        return await asyncio.shield(self._environments[environment])

    async def launch(
        self,
        program: Program,
        mounts: EnvironmentMounts,
        place: str,
        limits: Limits,
        *,
        log: int,
        on_output: Callable[[bytes], None] | None = None,
        on_answer: Callable[[bytes], None] | None = None,
        overseer: Overseer | None = None,
    ) -> Exit:
        """Lay out the workspace at `place` and run `program` in it until it ends. The rest is as for `runner.run`."""
        await asyncio.to_thread(lay_out, place, program)
        plan = plan_of(program, mounts, place, limits)
        return await runner.run(
            plan, log=log, on_output=on_output, on_answer=on_answer, overseer=overseer, runtime=self.runtime
        )


def plan_of(program: Program, mounts: EnvironmentMounts, place: str, limits: Limits) -> LaunchPlan:
    """What is run for `program` in the workspace at `place`."""
    return LaunchPlan(
        argv=program.command(mounts),
        workspace=place,
        mounts=tuple(mounts.mounts),
        environment=mounts.variables,
        limits=limits,
        symlinks=mounts.symlinks,
        root=mounts.root,
        image=mounts.image,
        gpu=mounts.gpu,
    )


def lay_out(place: str, program: Program) -> None:
    """Fill the workspace with inputs, program and parameters."""
    workspace.prepare(place)
    roles = workspace.stage_inputs(place, program.inputs)
    for name, path in program.files.items():
        shutil.copyfile(path, os.path.join(place, "program", name))
        if os.stat(path).st_mode & 0o100:
            os.chmod(os.path.join(place, "program", name), 0o755)  # noqa: S103  # it is read-only inside
    with open(os.path.join(place, "stage.json"), "wb") as stream:
        stream.write(encode(description(program, roles)))


def description(program: Program, roles: Mapping[str, str]) -> dict[str, Value]:
    """What ``/build/stage.json`` says; `roles` are the places of the inputs inside."""
    return {
        "name": program.name,
        "parameters": dict(program.parameters),
        "inputs": dict(roles),
        "out": abi.OUT,
    }
