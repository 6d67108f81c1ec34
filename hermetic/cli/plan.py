"""``hermetic plan``: what realise would do."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hermetic.cli import approved, console, options, plan_text, plan_unlocked
from hermetic.cli.common import Opened, opened
from hermetic.digest import Key
from hermetic.errors import HermeticError
from hermetic.realise.evaluated import split_reference
from hermetic.realise.forecast import Disk, Expected, disk, forecast
from hermetic.realise.hopeless import hopeless
from hermetic.realise.plan import Plan, Step, make_plan


@click.command("plan")
@options.recipe
@options.setting
@options.store
@options.as_json
@click.option("--commands", is_flag=True, help="Print the commands that would run, as a bash script to paste.")
def command(reference: str, sets: tuple[str, ...], store: str | None, as_json: bool, commands: bool) -> None:
    """Show what realise would do: which stages are in place, which would be built, and why. Builds and fetches nothing.

    Times and sizes are those of the last build of a stage of the same name in this store. Before `hermetic lock` there
    are no keys: then it shows the stages, and what is not locked.
    """
    try:
        session = opened(reference, sets, store)
    except HermeticError as error:
        if commands or not plan_unlocked.is_unlocked(error):
            raise
        plan_unlocked.show(split_reference(reference), sets, error, as_json=as_json)
        return
    approved.refuse(session, testing=True)  # nothing is built here, so one in test is only said
    if commands:
        show_commands(session)
    else:
        show(session, as_json=as_json)


def show_commands(session: Opened) -> None:
    """Print what would run for every stage that is not in place, or for the target if all are."""
    from hermetic.realise.commands import script

    plan = make_plan(session.evaluated.graph, [item.key for item in session.evaluated.wanted], session.store)
    keys = [derivation.key for derivation in plan.to_build]
    for line in script(session.evaluated, keys or [session.evaluated.wanted[0].key], session.store):
        console.data(line)


def show(session: Opened, *, as_json: bool) -> None:
    """Print the plan on stdout, and what it comes to on stderr."""
    plan = make_plan(session.evaluated.graph, [item.key for item in session.evaluated.wanted], session.store)
    expected = forecast(plan.to_build, session.store)
    space = disk(plan, expected, session.store)
    for step in plan.steps:
        if as_json:
            console.json_line(_document(step, session, expected))
        else:
            console.data(_line(step, session, expected))
    if not as_json:
        console.note(_summary(plan, expected, space))
        if space.short:
            console.warning(space.warning(str(session.store.root)))
        for message in _not_here(plan, session):
            console.warning(message)
    session.remember()


def _document(step: Step, session: Opened, expected: dict[Key, Expected]) -> dict[str, object]:
    derivation = step.derivation
    document: dict[str, object] = {
        "stage": derivation.name,
        "key": derivation.key.hex,
        "action": step.action,
        "path": str(session.store.path(derivation.key, derivation.name)),
    }
    guess = expected.get(derivation.key)
    if step.action == "fetch" and derivation.fixed is not None:
        document["bytes"] = derivation.fixed.size
    if guess is not None:
        document |= {"reason": guess.reason, "expected_seconds": guess.seconds, "expected_bytes": guess.bytes}
    return document


def _line(step: Step, session: Opened, expected: dict[Key, Expected]) -> str:
    derivation = step.derivation
    path = str(session.store.path(derivation.key, derivation.name))
    guess = expected.get(derivation.key)
    if step.action == "fetch" and derivation.fixed is not None:
        return plan_text.line(step.action, derivation.name, path, plan_text.amount(derivation.fixed.size))
    if guess is None:
        return plan_text.line(step.action, derivation.name, path)
    return plan_text.line(step.action, derivation.name, path, guess.reason, guess.seconds)


def _not_here(plan: Plan, session: Opened) -> Iterator[str]:
    """For a plan is made on any machine, and says so of stages that must be built on another."""
    errors = hopeless(plan, session.store)
    more = f" (so do {len(errors) - 1} more stages)" if len(errors) > 1 else ""
    yield from (error.message + more for error in errors[:1])


def _summary(plan: Plan, expected: dict[Key, Expected], space: Disk) -> str:
    seconds = sum(guess.seconds or 0 for guess in expected.values())
    size = sum(guess.size or 0 for guess in expected.values())
    unknown = sum(guess.seconds is None for guess in expected.values())
    estimated = any(guess.estimate for guess in expected.values())
    fetching = sum(item.fixed.size for item in plan.to_fetch if item.fixed is not None)
    text = plan_text.summary(len(plan.to_build), len(plan.steps), seconds, size, unknown, fetching)
    return text + (plan_text.disk(space.needed, space.unknown) if size or estimated else "")
