"""``hermetic why-rebuild``: which field makes a stage be built again."""

from __future__ import annotations

import click

from hermetic.canonical import Value
from hermetic.cli import console, options
from hermetic.cli.common import opened
from hermetic.digest import Key
from hermetic.realise.explain import changes, nearest


@click.command("why-rebuild")
@options.recipe
@options.setting
@options.store
@options.as_json
def command(reference: str, sets: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Compare a stage with the nearest earlier build of it, field by field, down through its inputs."""
    session = opened(reference, sets, store)
    derivation = session.evaluated.wanted[0]
    found = nearest(derivation.preimage, session.store.preimages())
    if found is None:
        console.note(f"{derivation.name} was never built in this store in another form")
        return
    key, before = found
    derivations = session.evaluated.graph.derivations

    def now(inner: Key) -> dict[str, Value] | None:
        return derivations[inner].preimage if inner in derivations else session.store.preimage(inner)

    if not as_json:
        state = "is in place" if session.store.realisation(derivation.key) is not None else "would be built"
        console.note(f"{derivation.name} {state}; compared with {session.store.path(key, derivation.name)}")
    for change in changes(before, derivation.preimage, session.store.preimage, now):
        if as_json:
            console.json_line({"field": change.where, "before": change.before, "after": change.after})
        else:
            console.data(f"{'  ' * change.depth}{change.where}: {change.before} -> {change.after}")
