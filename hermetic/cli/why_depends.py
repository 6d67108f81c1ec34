"""``hermetic why-depends``: through which inputs one store path came from another."""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.cli.target import find
from hermetic.errors import Domain, HermeticError
from hermetic.realise.explain import paths_between


@click.command("why-depends")
@click.argument("result", metavar="RECIPE[#STAGE]|PATH|KEY")
@click.argument("input_", metavar="RECIPE#STAGE|PATH|KEY")
@options.setting
@options.store
@options.as_json
def command(result: str, input_: str, sets: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Show the shortest chains of inputs that lead from one store path to another that it was built from."""
    place = open_store(store)
    start, end = find(result, sets, place), find(input_, sets, place)
    trails = paths_between(start.key, end.key, start.preimage)
    if not trails:
        message = f"{result} was not built from {input_}"
        raise HermeticError(
            Domain.USAGE, "independent", message, hint=f"hermetic tree {result} shows what it was built from"
        )
    for trail in trails:
        if as_json:
            console.json_line([{"role": role, "key": key.hex} for role, key in trail])
            continue
        for depth, (role, key) in enumerate(trail):
            name = str((start.preimage(key) or {}).get("name", "?"))
            console.data("  " * depth + (f"{role}: " if role else "") + str(place.path(key, name)))
