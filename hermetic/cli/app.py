"""The command group, and the one place where errors become exit codes."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

import click

from hermetic import __version__
from hermetic.cli import console, settings
from hermetic.errors import Domain, HermeticError

__all__ = ["run"]

#: Verb: module under `hermetic.cli`, and its line in ``--help`` (so that help imports no verb).
VERBS = {
    "realise": ("realise", "Make the store path of a recipe's stage exist, and print it."),
    "build": ("realise", "Another name for realise."),
    "plan": ("plan", "Show what realise would do, and why."),
    "run": ("run", "Ask an engine something: hermetic run RECIPE#engine PROMPT."),
    "shell": ("shell", "Open a shell exactly where a stage runs, or where it failed."),
    "init": ("init", "Write a first recipe for a model: hermetic init OWNER/NAME --gpu h100 --kind tensorrt-llm."),
    "lint": ("lint", "Say what is wrong with a recipe or a Truss config.yaml."),
    "lock": ("lock", "Ask what a recipe's images, models and data sets stand for, and write its lock file."),
    "path": ("path", "Print the store path of a stage without building it."),
    "log": ("log", "Show what a stage printed when it was built."),
    "tree": ("tree", "Show what a store path was built from."),
    "why-rebuild": ("why_rebuild", "Name the fields that make a stage be built again."),
    "why-depends": ("why_depends", "Show through which inputs one store path came from another."),
    "diff": ("diff", "Show how two store paths differ, file by file and field by field."),
    "inspect": ("inspect", "Show what an engine or a checkpoint says of itself, without a GPU."),
    "verify": ("verify", "Hash everything in the store again and name every difference."),
    "import": ("import_", "Adopt an engine folder that something else made, as an impure store path."),
    "serve": ("serve", "Serve an engine: OpenAI's API and Triton in one, or a part of them."),
    "link": ("link", "Let ~/.cache/trtllm-engines/NAME show a store path, and keep a history of it."),
    "profile": ("profile", "List, roll back and prune what links have shown."),
    "du": ("du", "Show how many bytes store paths take, alone and together."),
    "gc": ("gc", "Remove store paths that nothing keeps alive."),
    "root": ("root", "List, add and remove what keeps store paths alive."),
    "image": ("image", "List the images that stages may run in, and promote one that was tested."),
    "doctor": ("doctor", "Say what this machine can build, and which command mends what it can't."),
    "nix": ("nix", "Write what Nix builds a recipe from."),
    "config": ("config", "Show every setting and where it came from."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            close = difflib.get_close_matches(cmd_name, VERBS, n=1)
            hint = f"did you mean hermetic {close[0]}?" if close else "hermetic --help lists them"
            raise HermeticError(Domain.USAGE, "no-command", f"there is no command {cmd_name!r}", hint=hint)
        module = importlib.import_module(f"hermetic.cli.{VERBS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hermetic")
def main() -> None:
    """Reproducible, Nix-style builds of LLM engines.

    RECIPE is a Python file that names stages, or a Truss config.yaml; RECIPE#stage selects a stage. Exit codes: 0 ok,
    1 bug, 2 usage, 3 recipe, 4 environment, 5 trust, 6 corrupt store, 7 cache unavailable, 8 busy, 100 build failed,
    101 timed out, 102 hash mismatch, 104 not reproducible.
    """


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        code = main.main(arguments, prog_name="hermetic", standalone_mode=False)
        return code if isinstance(code, int) else 0  # of a context that was exited, as click returns it
    except HermeticError as error:
        return _shown(error)
    except settings.SettingError as error:
        return _shown(HermeticError(Domain.USAGE, "bad-setting", str(error), hint="hermetic config shows them all"))
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        console.note("stopped; nothing half-made was kept. Run the same command again to go on.")
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # the interpreter flushes stdout at exit
        return 0
    except OSError as error:
        return _shown(_system(error))


def _shown(error: HermeticError) -> int:
    console.show_error(error)
    return error.exit_code


def _system(error: OSError) -> HermeticError:
    """What the operating system refused, without a stack trace."""
    where = f": {error.filename}" if error.filename else ""
    return HermeticError(Domain.ENVIRONMENT, "system", f"{error.strerror or error}{where}")
