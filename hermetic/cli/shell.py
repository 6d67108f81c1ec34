"""``hermetic shell``: look around where a stage runs."""

from __future__ import annotations

from contextlib import ExitStack

import click

from hermetic.cli import approved, console, options
from hermetic.cli.common import opened
from hermetic.cli.realise import indexes, listener
from hermetic.realise.session import Options
from hermetic.realise.shell import Shell, enter
from hermetic.recipe import Stage


@click.command("shell")
@options.recipe
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@options.setting
@options.store
@click.option("--failed", is_flag=True, help="In the folder that realise --keep-failed left of the last failure.")
@click.option("--test-images", is_flag=True, help="Also in images that are in test (hermetic image).")
def command(
    reference: str, command: tuple[str, ...], sets: tuple[str, ...], store: str | None, failed: bool, test_images: bool
) -> None:
    """Open a shell, or run a command, exactly where a stage runs.

    What the stage needs is realised first. Then you are in its sandbox: its environment, its inputs under /build/in,
    its program under /build/program, no network. What you leave in /build/out goes nowhere; with --failed the folder
    stays as you leave it. The exit code is the command's.
    """
    session = opened(reference, sets, store)
    target = session.evaluated.target
    also = [target] if isinstance(target, Stage) else []  # it runs here even if its result is in place
    approved.refuse(session, testing=test_images, also=also)
    with ExitStack() as display:
        shell = Shell(command, failed, display.close, console.note)
        watching = display.enter_context(listener(session.store, as_json=False))
        ended = enter(session.evaluated, session.store, Options(indexes=indexes()), watching, shell)
    raise SystemExit(ended.status if ended.status is not None else 128 + (ended.signal or 0))
