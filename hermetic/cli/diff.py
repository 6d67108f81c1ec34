"""``hermetic diff``: how two store paths differ."""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.cli.target import find
from hermetic.errors import Domain, HermeticError
from hermetic.realise.compare import differences
from hermetic.realise.explain import changes
from hermetic.store import Realisation, Store

_SHOWN = 20  # details of one file; --json has all of them


@click.command("diff")
@click.argument("first", metavar="RECIPE[#STAGE]|PATH|KEY")
@click.argument("second", metavar="RECIPE[#STAGE]|PATH|KEY")
@options.setting
@options.store
@options.as_json
def command(first: str, second: str, sets: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Show how two store paths differ, and what in their recipes made the difference.

    Files by content, JSON by field, safetensors by tensor. The exit code is 0 whether or not they differ.
    """
    place = open_store(store)
    one, other = _realised(first, sets, place), _realised(second, sets, place)
    found = list(differences(place.manifest(one.tree), place.manifest(other.tree), one.path(place), other.path(place)))
    reasons = list(
        changes(place.preimage(one.key) or {}, place.preimage(other.key) or {}, place.preimage, place.preimage)
    )
    if as_json:
        for change in reasons:
            console.json_line({"recipe": change.where, "before": change.before, "after": change.after})
        for item in found:
            console.json_line({"path": item.path, "what": item.what, "details": list(item.details)})
        return
    for change in reasons:
        console.data(f"recipe  {'  ' * change.depth}{change.where}: {change.before} -> {change.after}")
    for item in found:
        console.data(f"{item.path}: {item.what}")
        for detail in item.details[:_SHOWN]:
            console.data(f"    {detail}")
        if len(item.details) > _SHOWN:
            console.data(f"    and {len(item.details) - _SHOWN} more")
    if not found:
        console.note("the same bytes")


def _realised(target: str, sets: tuple[str, ...], store: Store) -> Realisation:
    found = store.realisation(find(target, sets, store).key)
    if found is None:
        raise HermeticError(
            Domain.USAGE, "not-realised", f"{target} has no store path yet", hint=f"hermetic realise {target}"
        )
    return found
