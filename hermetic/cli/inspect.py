"""``hermetic inspect``: what an engine says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.errors import Domain, HermeticError
from hermetic.llm.inspection import Inspection, inspect


@click.command("inspect")
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@options.as_json
def command(path: Path, as_json: bool) -> None:
    """Show what an engine or a checkpoint is: kind, versions, ranks, quantisation, limits. Needs no GPU.

    What its files do not say is "unknown". Of an engine in a store it also shows every build option that was asked for
    otherwise than its builder took it. Exit code 6 if something of it is missing or contradicts the rest.
    """
    found = inspect(path)
    changed = _changed(path, found)
    if changed:
        found = replace(found, facts={**found.facts, "asked_for": changed})
    if as_json:
        console.json_line(_as_json(path, found))
    else:
        _show(path, found)
    if found.problems:
        message = f"{path} is not whole: {'; '.join(found.problems)}"
        raise HermeticError(Domain.STORE, "not-whole", message)


def _changed(path: Path, found: Inspection) -> dict[str, Any]:
    """By option what the recipe asked for, where the builder did something else; the store knows the recipe's side."""
    if found.kind != "tensorrt-llm engine":
        return {}
    from hermetic.llm.programs.build_options import different, flat
    from hermetic.store.layout import is_store

    root = str(path.resolve().parent.parent)
    if not is_store(root):
        return {}
    store = open_store(root)
    preimage = store.preimage(store.find(str(path.resolve())).key) or {}
    parameters = preimage.get("parameters")
    options = parameters.get("options") if isinstance(parameters, dict) else None
    asked = options if isinstance(options, dict) else {}
    effective = json.loads((path / "config.json").read_bytes())["build_config"]
    return {one["option"]: one["requested"] for one in different(asked, flat(effective))}


def _as_json(path: Path, found: Inspection) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": found.kind,
        **found.facts,
        "problems": list(found.problems),
        "size": found.size,
        "files": dict(found.files),
    }


def _show(path: Path, found: Inspection) -> None:
    from hermetic.realise.display import human_bytes

    console.data(f"{found.kind}, {human_bytes(found.size)} in {len(found.files)} files: {path}")
    for name, value in found.facts.items():
        console.data(f"  {name.replace('_', ' '):24} {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(str(item) for item in value) or "none"
    return (
        {True: "yes", False: "no", None: "none"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )
