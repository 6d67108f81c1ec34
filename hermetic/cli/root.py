"""``hermetic root``: what keeps store paths alive."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.errors import Domain, HermeticError


@click.group("root")
def command() -> None:
    """List, add and remove what keeps store paths alive. A root is a symlink; deleting the link ends it too."""


@command.command("list")
@options.store
@options.as_json
def list_(store: str | None, as_json: bool) -> None:
    """Every root, and the store path it keeps."""
    for root in open_store(store).roots():
        if as_json:
            console.json_line({"link": str(root.link), "key": root.key.hex, "current": root.current})
        else:
            console.data(f"{root.link}  {root.key.base32}{'' if root.current else '  (the link is gone or moved on)'}")


@command.command("add")
@click.argument("link", type=click.Path(path_type=Path))
@click.argument("target", metavar="PATH|KEY")
@options.store
def add(link: Path, target: str, store: str | None) -> None:
    """Make LINK point at a store path and keep that path alive."""
    place = open_store(store)
    place.add_root(Path(os.path.abspath(link)), place.find(target).key)


@command.command("remove")
@click.argument("links", metavar="LINK...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.store
def remove(links: tuple[Path, ...], store: str | None) -> None:
    """Take roots back, with the links themselves; what they kept alive goes with the next `hermetic gc`.

    LINK may also be a record below the store's roots folder, for one that cannot be read any more.
    """
    place = open_store(store)
    unknown = [link for link in links if not place.remove_root(link)]
    if unknown:
        names = ", ".join(map(str, unknown))
        hint = "hermetic root list shows every root"
        raise HermeticError(Domain.USAGE, "no-root", f"not a root of {place.root}: {names}", hint=hint)
