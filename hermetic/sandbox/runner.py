"""Runs a `LaunchPlan` under bubblewrap and outlives every process that it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TypeAlias

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import cgroup, disk, forker, launch, podman, seccomp, tools, usage, workspace
from hermetic.sandbox.output import Output
from hermetic.sandbox.plan import LaunchPlan, Limits
from hermetic.sandbox.process import Process
from hermetic.sandbox.processes import Tree
from hermetic.sandbox.usage import Meter, Usage

__all__ = ["Exit", "Overseer", "run"]

#: Watches a running stage, and returns when it is to be stopped.
Overseer: TypeAlias = Callable[[Tree], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a stage ended.

    One of `status` and `signal` is set. A program that exits with 128 + n itself is told as signal n, because
    bubblewrap reports both alike. `timed_out`: it was killed at `Limits.wall_s`; `silent`: it was killed after
    `Limits.silence_s` without output; `stopped`: its overseer had it killed; `over_disk`: it filled `Limits.disk_mb`.
    `oom`: the kernel killed one of its processes for memory, as a control group counted it; without one it is true if
    the program was killed (signal 9) by nobody of us while the kernel killed something of this machine for memory.
    `limited_by` says what held memory and processes: "cgroup", "rlimit", "podman" or "" for no limit. `seconds` runs
    from the launch to the end of the last process.
    """

    status: int | None
    signal: int | None
    timed_out: bool = False
    silent: bool = False
    stopped: bool = False
    oom: bool = False
    over_disk: bool = False
    limited_by: str = ""
    seconds: float = 0.0
    usage: Usage | None = None

    @property
    def ok(self) -> bool:
        return self.status == 0


async def run(
    plan: LaunchPlan,
    *,
    log: int | None,
    on_output: Callable[[bytes], None] | None = None,
    on_answer: Callable[[bytes], None] | None = None,
    overseer: Overseer | None = None,
    runtime: str = "bwrap",
    terminal: tuple[int, int] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Exit:
    """Run the stage; its standard output and error go to the descriptor `log` and, as they come, to `on_output`.

    With `on_answer` the standard output goes there and nowhere else. `terminal`, the two ends of a pseudo-terminal,
    which are closed at the end, takes the place of the pipes; bubblewrap alone has it. When `overseer` returns, the
    stage is killed; it is cancelled when the stage ends by itself.

    `runtime` is "bwrap" or "podman".

    When this returns or raises, no process of the stage is left. Cancelling the task kills them all first. Must be
    called on the main thread: the kernel ties the stage's life to the thread that started it.

    Raises `HermeticError`: environment/no-sandbox if bubblewrap or what it needs is missing, environment/
    sandbox-failed if the stage could not be started for another reason; and whatever `on_output` or `overseer` raises.
    """
    if threading.current_thread() is not threading.main_thread():
        raise HermeticError(Domain.BUG, "not-main-thread", "a stage can only be started from the main thread")
    started = time.monotonic()
    with ExitStack() as stack:
        output = Output(log, on_output, terminal)
        stack.callback(output.close)
        answer = Output(None, on_answer) if on_answer is not None else output
        stack.callback(answer.close)
        in_podman = runtime == "podman"
        group = None if in_podman else cgroup.make(plan.limits)  # an engine makes its own
        confined = _Confined(plan.limits, group)
        stack.callback(confined.close)
        kills = usage.machine_kills() if group is None else 0
        typed = terminal[1] if terminal is not None else stdin
        process = (
            podman.start(plan, output, answer, stdin) if in_podman else _launch(plan, output, answer, confined, typed)
        )
        stack.callback(process.close)
        watched = _Watched(plan, process, group)
        watching = overseer(watched.tree) if overseer is not None else None
        why = await _follow(process, (output, answer), plan.limits, watching, watched)
        await answer.finished()
        oom = watched.meter.out_of_memory()
        result = _killed(why) if why else _result(process, output)
        if group is None and not why and result.signal == signal.SIGKILL:
            oom = oom or usage.machine_kills() > kills
        return replace(
            result,
            oom=oom,
            over_disk=result.over_disk or (not result.ok and watched.reached_disk(result)),
            limited_by=_limited_by(plan, group, runtime),
            seconds=time.monotonic() - started,
            usage=watched.usage(),
        )


class _Confined:
    """What holds a stage under bubblewrap: its group, or a gate that opens when its first process has its limit."""

    def __init__(self, limits: Limits, group: cgroup.Group | None) -> None:
        self.group = group
        self.inside = group.open() if group is not None else None
        self.gate: tuple[int, int] | None = None
        self._processes = limits.processes
        if group is None and limits.processes is not None:
            self.gate = os.pipe2(os.O_CLOEXEC)

    def first(self, pid: int) -> None:
        """The stage's first process waits at the gate."""
        if self.gate is not None:
            assert self._processes is not None
            launch.limit_processes(pid, self._processes)
            self._open_gate()

    def close(self) -> None:
        self._open_gate()
        if self.inside is not None:
            os.close(self.inside)
        if self.group is not None:
            self.group.close()

    def _open_gate(self) -> None:
        for descriptor in self.gate or ():
            os.close(descriptor)
        self.gate = None


class _Watched:
    """What is looked at while a stage runs: its processes, its memory and its disk."""

    def __init__(self, plan: LaunchPlan, process: Process, group: cgroup.Group | None) -> None:
        self.process = process
        self.meter = Meter(group, lambda: next(iter(self.tree.processes()), None))
        self.tree = Tree(process.launched.pid, self.meter.out_of_memory)
        limit = plan.limits.disk_mb
        self.disk = None if limit is None else disk.Watch(plan.workspace, limit << 20, self.tree.processes)

    def reached_disk(self, ended: Exit) -> bool:
        """Whether what a dead stage left says that it had reached its limit, perhaps with a single file."""
        return self.disk is not None and (ended.signal == signal.SIGXFSZ or self.disk.look())

    def usage(self) -> Usage:
        most = None if self.disk is None else self.disk.most
        return self.meter.usage(self.process.counted, most)


async def _follow(
    process: Process,
    outputs: tuple[Output, Output],
    limits: Limits,
    overseer: Awaitable[None] | None,
    watched: _Watched,
) -> str:
    """Wait for the end; returns the field of `Exit` that says why the stage had to be killed, "" if it ended itself."""
    ends: dict[str, asyncio.Future[None]] = {"": asyncio.ensure_future(process.ended())}
    if limits.wall_s is not None:
        ends["timed_out"] = asyncio.ensure_future(asyncio.sleep(limits.wall_s))
    if limits.silence_s is not None:
        ends["silent"] = asyncio.ensure_future(_silence(outputs, limits.silence_s))
    if watched.disk is not None:
        ends["over_disk"] = asyncio.ensure_future(watched.disk.over())
    if overseer is not None:
        ends["stopped"] = asyncio.ensure_future(overseer)
    measuring = asyncio.ensure_future(watched.meter.watch())
    try:
        await asyncio.wait(ends.values(), return_when=asyncio.FIRST_COMPLETED)
        why = next(name for name, end in ends.items() if end.done())
        if why:
            await _stop(process)
        ends[why].result()
        return why
    except BaseException:
        await _stop(process)
        raise
    finally:
        for end in (measuring, *ends.values()):
            end.cancel()
        await asyncio.gather(measuring, *ends.values(), return_exceptions=True)


async def _silence(outputs: tuple[Output, Output], limit: float) -> None:
    """Returns when nothing has come for `limit` seconds."""
    while True:
        left = max(output.heard for output in outputs) + limit - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(left)


async def _stop(process: Process) -> None:
    """Kill and wait, however often the waiting task is cancelled meanwhile."""
    process.kill()
    ending = asyncio.ensure_future(process.drained())
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            continue


def _killed(why: str) -> Exit:
    return replace(Exit(None, signal.SIGKILL), **{why: True})  # type: ignore[arg-type]  # each is a bool


def _result(process: Process, output: Output) -> Exit:
    code = process.code
    if code is None:
        code = process.launched.returncode
        if code < 0:
            return Exit(None, -code)
        if code <= 128:
            raise process.explain(output.tail.decode(errors="replace"))  # else bubblewrap was killed, says its guard
    return Exit(None, code - 128) if 128 < code < 128 + signal.NSIG else Exit(code, None)


def _limited_by(plan: LaunchPlan, group: cgroup.Group | None, runtime: str) -> str:
    if plan.limits.memory_mb is None and plan.limits.processes is None:
        return ""
    if runtime == "podman":
        return runtime
    return "rlimit" if group is None else "cgroup"


def _launch(plan: LaunchPlan, output: Output, answer: Output, confined: _Confined, stdin: int) -> Process:
    tool = tools.bubblewrap()
    drop = launch.drops_privileges()
    group = confined.group
    if drop:
        workspace.hand_over(plan.workspace, launch.BUILD_UID, launch.BUILD_GID)
    plan = replace(plan, masked=tuple(path for path in plan.masked if os.path.lexists(path)))
    with ExitStack() as ours:
        files = [_memory(ours, file.content) for file in plan.inline()]
        filters = _memory(ours, seccomp.program(os.uname().machine))
        status, status_writer = _pipe(ours)
        places = launch.neutral(plan.sources()) if drop else {}
        block = confined.gate[0] if confined.gate is not None else None
        args = plan.bwrap_args(
            source=lambda path: places.get(path, path),
            descriptors=files,
            seccomp=filters,
            status=status_writer,
            block=block,
        )
        keep = (*files, filters, status_writer, *(() if block is None else (block,)))
        arguments = _memory(ours, b"".join(word.encode() + b"\0" for word in args[: args.index("--")]))
        child = launch.Child(
            sources=plan.sources(),
            limits=launch.resource_limits(plan.limits, grouped=group is not None),
            drop=drop,
            report=-1,  # the forker's
            parent=os.getpid(),
            groups=() if group is None else group.doors,
            group=confined.inside,
        )
        command = [tool, "--args", str(arguments), "--", *plan.argv]
        launched = _spawn(command, (stdin, answer.writer, output.writer), (*keep, arguments), child)
        output.close_writer()
        answer.close_writer()
        return Process(launched, output, os.dup(status), confined.first)


def _spawn(
    command: list[str], streams: tuple[int, int, int], keep: tuple[int, ...], child: launch.Child
) -> forker.Launched:
    try:
        return forker.spawn(command, streams, keep, child)
    except OSError as error:
        message = f"the stage's process could not be made: {error}"
        raise HermeticError(Domain.ENVIRONMENT, "sandbox-failed", message) from error


def _memory(stack: ExitStack, content: bytes) -> int:
    descriptor = os.memfd_create("hermetic", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _pipe(stack: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    return reader, writer
