"""``hermetic link``: switch what a server reads."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import Store


@click.command("link")
@click.argument("name")
@click.argument("target", metavar="PATH|KEY|RECIPE[#STAGE]")
@options.setting
@options.store
@options.as_json
@click.option("--to", type=click.Path(path_type=Path), help="The folder of the link [~/.cache/trtllm-engines].")
@click.option("--cause", default="", help="Why, for the history.")
def command(
    name: str, target: str, sets: tuple[str, ...], store: str | None, as_json: bool, to: Path | None, cause: str
) -> None:
    """Let ~/.cache/trtllm-engines/NAME show a store path, from one moment to the next.

    Every path that it ever showed stays until `hermetic profile prune`; `hermetic profile rollback` goes back to it.
    A folder outside the store can be shown too, but nothing here keeps that alive.
    """
    place = open_store(store)
    found = _resolve(target, sets, place)
    made = place.profile(name).switch(found, to or default_folder(), cause=cause or f"link {target}")
    path = made.path(place.layout)
    if as_json:
        console.json_line({"link": made.link, "generation": made.number, "path": path})
    else:
        console.data(made.link)
        console.note(f"{name} is at generation {made.number}: {path}")
    if not isinstance(found, Key):
        console.note(f"{path} is no path of this store, so nothing here keeps it")


def default_folder() -> Path:
    """Where Triton and the OpenAI proxy of TensorRT-LLM look for engines by name, whatever XDG_CACHE_HOME says."""
    return Path(os.path.expanduser("~/.cache/trtllm-engines"))


def _resolve(target: str, sets: tuple[str, ...], store: Store) -> Key | str:
    from hermetic.cli.target import find

    try:
        key = find(target, sets, store).key
    except HermeticError as error:
        if error.reason == "unknown-path" and "/" in target and os.path.isdir(target):
            return os.path.abspath(target)
        raise
    if store.realisation(key) is None:
        message = f"{target} is not realised yet"
        raise HermeticError(Domain.USAGE, "not-realised", message, hint=f"hermetic realise {target}")
    return key
