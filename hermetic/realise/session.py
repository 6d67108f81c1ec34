"""One realisation from beginning to end: a run of the store, a scheduler, and a clean stop whatever happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hermetic.digest import Key
from hermetic.realise.builder import Builder
from hermetic.realise.evaluated import Evaluated
from hermetic.realise.events import Listener
from hermetic.realise.launcher import Launcher
from hermetic.realise.resources import Resources
from hermetic.realise.scheduler import Scheduler
from hermetic.store import Realisation, Run, Store

__all__ = ["Options", "realise"]


@dataclass(frozen=True)
class Options:
    """How to realise; none of it changes a key."""

    jobs: int | None = None
    keep_failed: bool = False
    keep_going: bool = False
    indexes: Mapping[str, str] = field(default_factory=dict)
    out_link: Path | None = None


def realise(evaluated: Evaluated, store: Store, options: Options, listener: Listener) -> dict[Key, Realisation]:
    """Realise the target and its checks, and root the target at the out-link, if there is one.

    Raises `HermeticError`; `KeyboardInterrupt` on SIGINT and SIGTERM.

    Must be called from the main thread: a sandbox dies with the thread that started it.
    """
    with store.begin() as run:
        found = asyncio.run(_realise(evaluated, run, store, options, listener))
        if options.out_link is not None:  # while the run's lease still keeps the collector away
            store.add_root(options.out_link, evaluated.wanted[0].key)
        return found


async def _realise(
    evaluated: Evaluated, run: Run, store: Store, options: Options, listener: Listener
) -> dict[Key, Realisation]:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    builder = Builder(
        store=store,
        run=run,
        launcher=Launcher(run, evaluated.identities, options.indexes),
        resources=Resources(options.jobs),
        listener=listener,
        keep_failed=options.keep_failed,
    )
    scheduler = Scheduler(evaluated.graph, builder, listener, options.keep_going)
    try:
        return await scheduler.realise([derivation.key for derivation in evaluated.wanted])
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
