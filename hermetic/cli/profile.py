"""``hermetic profile``: what links have shown, and the way back."""

from __future__ import annotations

import time
from typing import Any

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.cli.placing import place_of, place_options
from hermetic.cli.policies import policy_of
from hermetic.cli.serve import imported
from hermetic.digest import Key
from hermetic.store import Generation, Profile, Store


@click.group("profile")
def command() -> None:
    """List, roll back and prune what links have shown. `hermetic link` makes profiles."""


@command.command("list")
@options.store
@options.as_json
def list_(store: str | None, as_json: bool) -> None:
    """Every profile, its link, and what that shows."""
    place = open_store(store)
    for profile in place.profiles():
        history = profile.history()
        shown = profile.current()
        if as_json:
            current = _as_json(place, shown) if shown else None
            console.json_line({"profile": profile.name, "link": history[-1].link, "current": current})
        else:
            what = f"{shown.number}  {shown.path(place.layout)}" if shown else "(the link is gone or moved on)"
            console.data(f"{profile.name}  {history[-1].link}  {what}")


@command.command("history")
@click.argument("name")
@options.store
@options.as_json
def history(name: str, store: str | None, as_json: bool) -> None:
    """Every generation of a profile, the oldest first; a star marks the current one."""
    place = open_store(store)
    profile = place.profile(name)
    shown = profile.current()
    for generation in profile.history():
        if as_json:
            console.json_line({**_as_json(place, generation), "current": generation == shown})
        else:
            console.data(f"{'*' if generation == shown else ' '} {_line(place, generation)}")


@command.command("rollback")
@click.argument("name")
@options.store
@click.option("--to", type=click.IntRange(min=1), help="The generation to go back to [the one before the current].")
@click.option("--cause", default="", help="Why, for the history and for llm_rollback_completed.")
@click.option("--policy", type=click.Path(), help="The deployment's policy file [the setting policies has it].")
@place_options
def rollback(name: str, store: str | None, to: int | None, cause: str, policy: str | None, **given: Any) -> None:
    """Show again what an earlier generation showed. That is read again first; if it is damaged the link stays.

    With a policy, the restored engine is verified, started beside whatever runs and warmed up, and the deployment's log
    gets llm_rollback_completed with the cause. A server that runs goes on with the other engine, and is not ready any
    more, until it gets SIGHUP or is started again. Where that Triton comes from is said as to `hermetic serve`.
    """
    file = policy_of(name, policy)
    warming = imported("profile_warming") if file is not None else None
    if file is not None:
        place_of(given)  # which may refuse, before the link is switched
    place = open_store(store)
    profile = place.profile(name)
    shown = profile.current()
    generation = profile.rollback(to, cause=cause)
    _tell(place, profile, generation)
    if warming is not None:
        left = shown.path(place.layout) if shown else ""
        warming.warm_up_again(file, name, store, generation, left, given)


@command.command("prune")
@click.argument("name")
@options.store
@click.option("--keep", type=click.IntRange(min=0), required=True, help="How many of the newest generations stay.")
def prune(name: str, store: str | None, keep: int) -> None:
    """Forget old generations; the current one always stays. What only they kept goes with the next `hermetic gc`."""
    place = open_store(store)
    for generation in place.profile(name).prune(keep):
        console.data(_line(place, generation))


def _tell(store: Store, profile: Profile, generation: Generation) -> None:
    console.data(generation.link)
    console.note(f"{profile.name} is at generation {generation.number}: {generation.path(store.layout)}")


def _line(store: Store, generation: Generation) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(generation.when))
    return f"{generation.number:>3}  {when}  {generation.path(store.layout)}  {generation.cause}"


def _as_json(store: Store, generation: Generation) -> dict[str, object]:
    return {
        "generation": generation.number,
        "path": generation.path(store.layout),
        "key": generation.target.hex if isinstance(generation.target, Key) else None,
        "previous": generation.previous,
        "restores": generation.restores,
        "cause": generation.cause,
        "when": generation.when,
    }
