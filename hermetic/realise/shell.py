"""A command, or a shell, where a stage would run: its environment, its inputs, its program, its sandbox."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hermetic.derivation import Derivation
from hermetic.errors import Domain, HermeticError
from hermetic.realise.evaluated import Evaluated
from hermetic.realise.events import Listener
from hermetic.realise.launcher import Program, lay_out, plan_of
from hermetic.realise.scheduler import Scheduler
from hermetic.realise.session import Options, builder_of, stoppable
from hermetic.sandbox import runner
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.plan import LaunchPlan, Limits, Mount, is_within
from hermetic.sandbox.runner import Exit
from hermetic.sandbox.terminal import CLAIM, Terminal, write_all
from hermetic.store import Store

__all__ = ["Shell", "enter"]

_BUSYBOX: Final = "/build/env/busybox"
_SHELLS: Final = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")


@dataclass(frozen=True)
class Shell:
    """What to run: `command`, or a shell if it is empty; `failed`: in the kept workspace of the last failed attempt.

    `ready` is called when all is in place, before anything is run; `banner` is told where we are if it is a shell.
    """

    command: tuple[str, ...]
    failed: bool
    ready: Callable[[], None]
    banner: Callable[[str], None]


def enter(evaluated: Evaluated, store: Store, options: Options, listener: Listener, shell: Shell) -> Exit:
    """Realise what the target stage needs, not the stage itself, and run `shell` in its place; how that ended.

    The output of the command is not taken: the workspace goes when it ends, except that of a failed attempt.

    Raises `HermeticError` as `realise` does, and usage/no-failed-workspace. Must be called from the main thread.
    """
    target = evaluated.wanted[0]
    with store.begin() as run:
        builder = builder_of(evaluated, run, store, options, listener)
        return asyncio.run(stoppable(_enter(target, Scheduler(evaluated.graph, builder, listener), shell)))


async def _enter(target: Derivation, scheduler: Scheduler, shell: Shell) -> Exit:
    builder = scheduler.builder
    mounts = await builder.launcher.environment(target.stage.environment, lambda *_: None)
    if shell.failed:
        place = _kept(target, builder.store)
        with builder.store.use_kept(Path(place)):
            return await _run(plan_of(_program(target, {}), mounts, place, Limits()), mounts, shell)
    program = _program(target, await _inputs(target, scheduler))
    with builder.run.workspace() as workspace:
        await asyncio.to_thread(lay_out, str(workspace.path), program)
        return await _run(plan_of(program, mounts, str(workspace.path), Limits()), mounts, shell)


def _program(target: Derivation, inputs: dict[str, str]) -> Program:
    stage = target.stage
    return Program(target.name, stage.program_files(), stage.parameters_in_full(), inputs)


async def _inputs(target: Derivation, scheduler: Scheduler) -> dict[str, str]:
    roles = dict(target.built_inputs())
    found = await scheduler.realise(list(roles.values()))
    return await scheduler.builder.places(target, {role: found[key] for role, key in roles.items()})


def _kept(target: Derivation, store: Store) -> str:
    for attempt in store.attempts(target.key):
        place = attempt.extra.get("workspace")
        if isinstance(place, str) and os.path.isdir(place):
            return place
    message = f"no workspace of a failed attempt at {target.name!r} was kept"
    hint = "build it with --keep-failed, then try again"
    raise HermeticError(Domain.USAGE, "no-failed-workspace", message, hint=hint)


async def _run(plan: LaunchPlan, mounts: EnvironmentMounts, shell: Shell) -> Exit:
    shell.ready()
    if shell.command:
        return await _attached(replace(plan, argv=shell.command))
    shell.banner(f"/build is where the stage runs; it would run: {shlex.join(plan.argv)}")
    plan = _with_shell(plan, mounts, shell.banner)
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return await _attached(plan)
    with Terminal() as terminal:
        claimed = replace(plan, argv=_claim(plan, mounts))
        return await runner.run(claimed, log=None, on_output=terminal.show, terminal=terminal.ends)


async def _attached(plan: LaunchPlan) -> Exit:
    """With our own standard streams."""
    stdin, stdout, stderr = (stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return await runner.run(plan, log=stderr, on_answer=lambda data: write_all(stdout, data), stdin=stdin)


def _with_shell(plan: LaunchPlan, mounts: EnvironmentMounts, banner: Callable[[str], None]) -> LaunchPlan:
    """A shell of the environment itself, else busybox of this machine, else Python."""
    found = _own_shell(plan)
    if found is not None:
        return replace(plan, argv=(found,))
    busybox = _busybox()
    if busybox is not None:
        banner(f"this environment has no shell; {busybox} of this machine is there too, as {_BUSYBOX}")
        argv = (_BUSYBOX, "sh")
        return replace(plan, argv=argv, mounts=(*plan.mounts, Mount(busybox, _BUSYBOX)))
    if mounts.python:
        banner("this environment has no shell, and this machine no static busybox; here is Python")
        return replace(plan, argv=(*mounts.python, "-q", "-i"))
    message = "this environment has neither a shell nor Python"
    hint = "apt-get install busybox-static, or name a command: hermetic shell RECIPE#stage -- COMMAND"
    raise HermeticError(Domain.ENVIRONMENT, "no-shell", message, hint=hint)


def _own_shell(plan: LaunchPlan) -> str | None:
    for path in _SHELLS:
        if plan.root is not None:
            if os.path.lexists(f"{plan.root}{path}"):
                return path
        elif any(is_within(path, mount.target) and os.path.exists(path) for mount in plan.mounts):
            return path
    return None


def _busybox() -> str | None:
    """Of this machine, if it needs no library: the dynamic loader is the interpreter that an ELF file names."""
    path = shutil.which("busybox")
    if path is None:
        return None
    with open(path, "rb") as stream:
        return None if b"ld-linux" in stream.read(4096) else os.path.realpath(path)


def _claim(plan: LaunchPlan, mounts: EnvironmentMounts) -> tuple[str, ...]:
    """The command behind something that gives it a terminal of its own, if there is anything that can."""
    if mounts.python:
        return (*mounts.python, "-c", CLAIM, *plan.argv)
    if plan.argv[0] == _BUSYBOX:
        return (_BUSYBOX, "setsid", "-c", *plan.argv)
    if plan.root is not None and os.path.lexists(f"{plan.root}/usr/bin/setsid"):
        return ("/usr/bin/setsid", "--ctty", "--wait", *plan.argv)
    return plan.argv
