"""``hermetic log``: what a stage printed."""

from __future__ import annotations

import shutil
import sys
import time

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.cli.target import find
from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import Attempt, Store

_POLL = 0.2  # seconds between two looks at a log that is being written


@click.command("log")
@click.argument("target", metavar="RECIPE[#STAGE]|PATH|KEY")
@options.setting
@options.store
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt ends.")
@click.option("--all", "all_attempts", is_flag=True, help="List every attempt instead of showing the last one's log.")
def command(target: str, sets: tuple[str, ...], store: str | None, follow: bool, all_attempts: bool) -> None:
    """Show what a stage printed the last time it was run, whether it succeeded or not."""
    place = open_store(store)
    key = _key(target, sets, place)
    attempts = place.attempts(key)
    if not attempts:
        hint = "its output was adopted from an equal stage, or it has never been run here"
        raise HermeticError(Domain.USAGE, "no-log", f"there is no log of {target}", hint=hint)
    if all_attempts:
        for attempt in attempts:
            click.echo(f"{attempt.id}  {attempt.outcome:10} {attempt.log}")
        return
    _show(attempts[0], follow=follow)
    used = _used(place.attempts(key)[0])
    if used:
        console.note(used)


def _used(attempt: Attempt) -> str:
    """What an attempt that has ended used, in a line; "" if it is not known."""
    from hermetic.realise.display import human_bytes, human_time

    used = attempt.extra.get("used", {})
    words = {"memory": "{} of memory", "memory_with_cache": "{} with files cached", "written": "{} written"}
    parts = [text.format(human_bytes(used[name])) for name, text in words.items() if name in used]
    seconds = [f"{human_time(used['cpu_s'])} of processor time"] if "cpu_s" in used else []
    return f"used {', '.join([*seconds, *parts])}" if seconds or parts else ""


def _key(target: str, sets: tuple[str, ...], store: Store) -> Key:
    """As `target.find`, and also keys whose build failed: they have attempts, but no path."""
    try:
        return find(target, sets, store).key
    except HermeticError as error:
        found = {attempt.key for attempt in store.attempts_like(target)} if error.reason == "unknown-path" else set()
        if len(found) != 1:
            raise
        return found.pop()


def _show(attempt: Attempt, *, follow: bool) -> None:
    with open(attempt.log, "rb") as stream:
        while True:
            running = follow and attempt.outcome == "running" and not attempt.interrupted
            shutil.copyfileobj(stream, sys.stdout.buffer)
            sys.stdout.flush()
            if not running:
                return
            time.sleep(_POLL)
