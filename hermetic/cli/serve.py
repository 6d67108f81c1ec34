"""``hermetic serve``: the group. Each way of serving is a file of its own, imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib

import click

from hermetic.errors import Domain, HermeticError

#: Name: module under `hermetic.cli`, and its line in ``--help``.
WAYS = {
    "triton": ("serve_triton", "Start Triton with an engine."),
    "compose": ("serve_compose", "Write the files that start it: Docker Compose, Kubernetes, systemd."),
    "policy": ("serve_policy", "Check a policy file."),
}


class _Ways(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(WAYS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in WAYS:
            close = difflib.get_close_matches(cmd_name, WAYS, n=1)
            hint = f"did you mean hermetic serve {close[0]}?" if close else "hermetic serve --help lists them"
            raise HermeticError(Domain.USAGE, "no-command", f"there is no hermetic serve {cmd_name!r}", hint=hint)
        module = importlib.import_module(f"hermetic.cli.{WAYS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(way, line) for way, (_, line) in WAYS.items()])


@click.command("serve", cls=_Ways)
def command() -> None:
    """Serve an engine."""
