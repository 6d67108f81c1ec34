"""``hermetic plan``: what realise would do."""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.common import Opened, opened
from hermetic.realise.plan import make_plan


@click.command("plan")
@options.recipe
@options.setting
@options.store
@options.as_json
def command(reference: str, sets: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Show what realise would do: which stages are in place and which would be built. Builds and fetches nothing."""
    show(opened(reference, sets, store), as_json=as_json)


def show(session: Opened, *, as_json: bool) -> None:
    """Print the plan on stdout."""
    plan = make_plan(session.evaluated.graph, [item.key for item in session.evaluated.wanted], session.store)
    for step in plan.steps:
        derivation = step.derivation
        path = str(session.store.path(derivation.key, derivation.name))
        if as_json:
            console.json_line(
                {"stage": derivation.name, "key": derivation.key.hex, "action": step.action, "path": path}
            )
        else:
            console.data(f"{step.action:9} {derivation.name:20} {path}")
    if not as_json:
        console.note(f"{len(plan.to_build)} of {len(plan.steps)} stages to build")
