"""``hermetic run``: ask an engine."""

from __future__ import annotations

import os
import sys

import click

from hermetic.canonical import Value
from hermetic.cli import approved, drivers, options
from hermetic.cli.common import opened
from hermetic.cli.realise import indexes, listener
from hermetic.errors import Domain, HermeticError
from hermetic.realise.ask import ask
from hermetic.realise.session import Options, realise


@click.command("run")
@options.recipe
@click.argument("prompt")
@options.setting
@options.store
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--system", metavar="TEXT", default="", help="What the engine is told before the prompt.")
def command(
    reference: str, prompt: str, sets: tuple[str, ...], store: str | None, max_new_tokens: int, system: str
) -> None:
    """Ask an engine, and print its answer as it comes.

    The engine is realised first if it is not in place, and runs in the environment it was built in. For an engine that
    hears, PROMPT is a WAV file.
    """
    session = opened(reference, sets, store)
    target = session.evaluated.wanted[0]
    hears = target.fixed is None and target.stage.asked_with == "file"
    if hears and system:
        raise HermeticError(
            Domain.USAGE, "no-system-prompt", "this engine is asked with sound alone: leave out --system"
        )
    if hears and not os.path.isfile(prompt):
        raise HermeticError(
            Domain.USAGE, "no-such-file", f"this engine is asked with a WAV file, and {prompt!r} is none"
        )
    if any(session.store.realisation(item.key) is None for item in session.evaluated.wanted):
        approved.refuse(session, testing=False)
        drivers.refuse(session)
        with listener(session.store, as_json=False) as display:
            realise(session.evaluated, session.store, Options(indexes=indexes()), display)
    parameters: dict[str, Value] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "system": system}
    asked, sound = ({}, prompt) if hears else (parameters, "")
    ask(session.evaluated, session.store, asked, _write, indexes(), session.memo, sound)
    sys.stdout.write("\n")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
