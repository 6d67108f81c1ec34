"""One realisation from beginning to end: a run of the store, a scheduler, and a clean stop whatever happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hermetic.derivation import Derivation
from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.realise.builder import Builder
from hermetic.realise.check import Checked, build_again
from hermetic.realise.evaluated import Evaluated
from hermetic.realise.events import Listener
from hermetic.realise.launcher import Launcher
from hermetic.realise.resources import Resources
from hermetic.realise.scheduler import Scheduler
from hermetic.sandbox import podman
from hermetic.store import Realisation, Run, Store

__all__ = ["Options", "builder_of", "check", "realise", "stoppable"]

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How to realise; none of it changes a key. `runtime` is one of `podman.RUNTIMES`."""

    jobs: int | None = None
    keep_failed: bool = False
    keep_going: bool = False
    indexes: Mapping[str, str] = field(default_factory=dict)
    out_link: Path | None = None
    runtime: str = "auto"


def realise(evaluated: Evaluated, store: Store, options: Options, listener: Listener) -> dict[Key, Realisation]:
    """Realise the target and its checks, and root the target at the out-link, if there is one.

    Raises `HermeticError`; `KeyboardInterrupt` on SIGINT and SIGTERM.

    Must be called from the main thread: a sandbox dies with the thread that started it.
    """
    with store.begin() as run:
        builder = builder_of(evaluated, run, store, options, listener)
        scheduler = Scheduler(evaluated.graph, builder, listener, options.keep_going)
        found = asyncio.run(stoppable(scheduler.realise([item.key for item in evaluated.wanted])))
        if options.out_link is not None:  # while the run's lease still keeps the collector away
            store.add_root(options.out_link, evaluated.wanted[0].key)
        return found


def check(evaluated: Evaluated, store: Store, options: Options, listener: Listener) -> Checked:
    """Realise the target and what it is built from, build the target once more, and grade the two.

    Raises as `realise` does.
    """
    target = evaluated.wanted[0]
    if target.fixed is not None:
        message = f"{target.name!r} is fetched, not built: each of its files is compared with the lock file every time"
        raise HermeticError(Domain.USAGE, "nothing-to-check", message)
    with store.begin() as run:
        builder = builder_of(evaluated, run, store, options, listener)
        return asyncio.run(stoppable(_check(target, Scheduler(evaluated.graph, builder, listener))))


async def _check(target: Derivation, scheduler: Scheduler) -> Checked:
    roles = dict(target.built_inputs())
    found = await scheduler.realise([target.key, *roles.values()])
    inputs = {role: found[key] for role, key in roles.items()}
    return await build_again(target, found[target.key], inputs, scheduler.builder)


def builder_of(evaluated: Evaluated, run: Run, store: Store, options: Options, listener: Listener) -> Builder:
    """What builds stages of `evaluated` in `run`."""
    return Builder(
        store=store,
        run=run,
        launcher=Launcher(run, evaluated.identities, options.indexes, podman.choose(options.runtime)),
        resources=Resources(options.jobs),
        listener=listener,
        keep_failed=options.keep_failed,
    )


async def stoppable(work: Coroutine[None, None, T]) -> T:
    """Do `work`; SIGTERM stops it as Ctrl-C does, with everything it started."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
