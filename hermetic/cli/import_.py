"""``hermetic import``: adopt what something else made."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.store import import_tree

_NIX_HASH = re.compile(r"[0-9a-z]{32}-")


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.store
@options.as_json
@click.option("--name", help="What the store path is called [the folder's name].")
@click.option("-o", "--out-link", type=click.Path(path_type=Path), help="Make a link to the path that keeps it alive.")
def command(folder: Path, store: str | None, as_json: bool, name: str | None, out_link: Path | None) -> None:
    """Copy an engine folder that something else made into the store, and print its store path.

    Where it came from nobody can know, so the path is impure, and so is whatever is built from it: neither is ever
    signed or pushed. The folder stays as it is. Paths of /nix/store can be imported too.
    """
    place = open_store(store, create=True)
    with place.begin() as run:
        made = import_tree(run, folder, name or _name(folder))
        if out_link is not None:
            place.add_root(Path(os.path.abspath(out_link)), made.key)
    path = place.path(made.key, made.name)
    if as_json:
        console.json_line({"path": str(path), "key": made.key.hex, "tree": made.tree.hex, "impure": made.impure})
    else:
        console.data(str(path))
    console.note("impure: nobody knows how it was made; it is never signed or pushed, nor is what is built from it")
    if out_link is None:
        console.note(f"nothing keeps it alive yet: `hermetic link NAME {path}` or `hermetic root add LINK {path}`")


def _name(folder: Path) -> str:
    """The folder's own name, without the hash of a Nix store path."""
    return _NIX_HASH.sub("", os.path.basename(os.path.realpath(folder)), count=1)
