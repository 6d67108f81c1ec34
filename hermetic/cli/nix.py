"""``hermetic nix``: the second driver."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from hermetic.cli import approved, console, options
from hermetic.errors import Domain, HermeticError


@click.group("nix")
def command() -> None:
    """Let Nix build what a recipe says; see docs/nix.md."""


@command.command("export")
@click.argument("reference", metavar="RECIPE")
@options.setting
@click.option("--out", type=click.Path(dir_okay=False), help="The file to write [RECIPE's name with .nix.json].")
@click.option("--check", "check_", is_flag=True, help="Write nothing; fail if the file is not what would be written.")
@click.option("--archives", is_flag=True, help="Pull each image once, with skopeo, for the sha256 that Nix asks for.")
def export(reference: str, sets: tuple[str, ...], out: str | None, check_: bool, archives: bool) -> None:
    """Write the derivation graph of RECIPE beside it, for nix/ to build from. Builds nothing.

    The package index is asked for the names of wheels, once for each lock file of a Python environment. What RECIPE's
    lock has as unresolved fails once Nix builds it; all else can be built.
    """
    from hermetic.cli.realise import indexes
    from hermetic.nix.archives import archive_hash
    from hermetic.nix.export import document, export_path, text
    from hermetic.recipe import Memo, load

    overrides, memo = options.overrides(sets), Memo()
    if approved.configured() is not None:
        approved.refuse_stages(load(reference, overrides, memo=memo).names, testing=False)
    path = out or export_path(reference)
    old = _read(path)
    ask = archive_hash if archives else None
    new = text(document(reference, overrides, before=_parsed(old), indexes=indexes(), memo=memo, archive=ask))
    if new == old:
        console.note(f"{path} is as it was")
        return
    if check_:
        message = f"{path} is not what {reference} says"
        raise HermeticError(Domain.RECIPE, "nix-drift", message, hint=f"hermetic nix export {reference}")
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(new)
    os.replace(temporary, path)
    console.data(path)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def _parsed(text: str) -> dict[str, Any]:
    """What was exported before; nothing if it is of no use."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
