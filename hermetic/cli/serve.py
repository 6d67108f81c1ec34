"""``hermetic serve``: the group. Each way of serving is a file of its own, imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
from types import ModuleType

import click

from hermetic.errors import Domain, HermeticError

#: Name: module under `hermetic.cli`, and its line in ``--help``.
WAYS = {
    "triton": ("serve_triton", "Start Triton with an engine."),
    "compose": ("serve_compose", "Write the files that start it: Docker Compose, Kubernetes, systemd."),
    "openai": ("serve_openai", "Answer OpenAI's API with a Triton that runs already."),
    "policy": ("serve_policy", "Check a policy file, sign an engine off, show what was logged."),
}


class _Ways(click.Group):
    """What is none of the ways is something to serve, all in one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(WAYS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return _loaded(WAYS[cmd_name][0])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if any(one in WAYS for one in args[:1]):
            return super().resolve_command(ctx, args)
        _insist_on_no_slip(args[0])
        return "", _loaded("serve_all"), args

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(way, line) for way, (_, line) in WAYS.items()])


def _loaded(name: str) -> click.Command:
    command: click.Command = imported(name).command
    return command


def imported(name: str) -> ModuleType:
    """The module `name` of the command line, for which the extra `serve` may be needed.

    Raises `HermeticError` (environment/extra-missing) without it.
    """
    try:
        return importlib.import_module(f"hermetic.cli.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "hermetic").partition(".")[0] == "hermetic":
            raise
        message = f"this way of serving needs the package that has the module {error.name}"
        hint = "pip install 'hermetic-engines[serve]'"
        raise HermeticError(Domain.ENVIRONMENT, "extra-missing", message, hint=hint) from error


def _insist_on_no_slip(name: str) -> None:
    """What looks like a way and is none may be a slip of the fingers; an engine like that can be given by its path."""
    close = difflib.get_close_matches(name, WAYS, n=1, cutoff=0.75)
    if close and not os.path.exists(name):
        hint = f"did you mean hermetic serve {close[0]}?"
        raise HermeticError(Domain.USAGE, "no-command", f"there is no hermetic serve {name!r}", hint=hint)


@click.command(
    "serve",
    cls=_Ways,
    subcommand_metavar="NAME|PATH|RECIPE[#STAGE] | COMMAND [ARGS]...",
)
def command() -> None:
    """Serve an engine: Triton, OpenAI's API on port 9000 and readiness in one, or a part of that by a COMMAND."""
