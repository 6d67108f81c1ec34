"""``hermetic init``: a first recipe for a model, on a GPU, as an engine of one kind."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import click

from hermetic.cli import console, options
from hermetic.errors import Domain, HermeticError


@click.command("init")
@click.argument("model", metavar="OWNER/NAME|DIR")
@click.option("--kind", required=True, help="The engine kind: tensorrt-llm, tensorrt-llm-pytorch, openvino or aoti.")
@click.option("--gpu", default="", metavar="GPU[:COUNT]", help="h100, h200:2, cpu, …, or NAME,GIB,SM.")
@click.option("--quantisation", default="", metavar="FORMAT", help="fp8, nvfp4, int4_awq, int8_wo, …, none.")
@click.option("--family", default="", help="llama, qwen3, …, where the model's name does not tell.")
@click.option("--config", default="", metavar="FILE", help="The model's config.json, if it is here.")
@click.option("--name", default="", help="What the recipe is called [after the model].")
@click.option("--torch", default="", metavar="DIR", help="A virtual environment with torch, for the kind aoti.")
@click.option("--dry-run", "-n", is_flag=True, help="Print the recipe and write nothing.")
@options.as_json
def command(model: str, name: str, *, dry_run: bool, as_json: bool, **chosen: str) -> None:
    """Write NAME.py, a recipe that `hermetic lint` accepts and `hermetic lock` completes. Asks nobody.

    A file that is there is never written over. What cannot run is refused, with what can.
    """
    from hermetic.llm.starter.kinds import recipe
    from hermetic.llm.starter.request import request

    asked = request(model, name=name, **chosen)
    file, text = f"{asked.name}.py", recipe(asked)
    if not dry_run:
        _write(file, text)
    if as_json:
        shown: dict[str, Any] = {"file": file, "written": not dry_run, "next": _next(file), **asdict(asked)}
        console.json_line(shown | ({"text": text} if dry_run else {}))
    elif dry_run:
        console.data(text.rstrip("\n"))
    else:
        console.data(file)
        console.note("next: " + "\n      ".join(_next(file)))


def _next(file: str) -> list[str]:
    return [f"hermetic {verb} {file}" for verb in ("lock", "lint", "plan", "realise")]


def _write(file: str, text: str) -> None:
    """Raises `HermeticError` (usage/file-exists), for a lock file too: it would be another recipe's."""
    from hermetic.recipe.lockfile import lock_path

    taken = next((path for path in (file, lock_path(file)) if os.path.lexists(path)), "")
    try:
        if not taken:
            with open(file, "x", encoding="utf-8") as stream:
                stream.write(text)
    except FileExistsError:
        taken = file
    if taken:
        raise HermeticError(Domain.USAGE, "file-exists", f"{taken} is there already", hint="--name ANOTHER")
