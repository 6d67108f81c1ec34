"""``hermetic path``: where a stage's result is, or would be."""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.common import opened
from hermetic.errors import Domain, HermeticError


@click.command("path")
@options.recipe
@options.setting
@options.store
@options.as_json
@click.option("--exists", is_flag=True, help="Fail unless the path is in place.")
def command(reference: str, sets: tuple[str, ...], store: str | None, as_json: bool, exists: bool) -> None:
    """Print the store path of a stage without building it: the key is known before anything is built."""
    session = opened(reference, sets, store)
    derivation = session.evaluated.wanted[0]
    found = session.store.realisation(derivation.key)
    path = str(session.store.path(derivation.key, derivation.name))
    if exists and found is None:
        hint = f"hermetic realise {reference}"
        raise HermeticError(Domain.USAGE, "not-realised", f"{path} does not exist yet", hint=hint)
    if as_json:
        console.json_line({"path": path, "key": derivation.key.hex, "realised": found is not None})
    else:
        console.data(path)
    session.remember()
