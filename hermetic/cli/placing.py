"""What every command can be told that starts Triton: where that comes from, how long it may take, who hears it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hermetic.cli import console, settings
from hermetic.errors import Domain, HermeticError
from hermetic.sandbox.podman import RUNTIMES

if TYPE_CHECKING:
    from hermetic.serve.launch_command import Place
    from hermetic.serve.launch_watch import Talk

F = TypeVar("F", bound=Callable[..., object])


def place_options(function: F) -> F:
    """Where Triton comes from for engines of TensorRT-LLM, and how the start of any is waited for."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--image", envvar="TRITON_IMAGE", default="", help="Triton's image, by digest: NAME@sha256:…"),
    click.option("--triton", default="", metavar="PROGRAM", help="A tritonserver of this machine instead."),
    click.option("--backends", default="", metavar="DIR", help="Its backends [those beside it]."),
    click.option("--gpu", default="", metavar="PRODUCT", help="What the engine needs, if nothing else says; or none."),
    click.option(
        "--runtime", type=click.Choice(RUNTIMES), default="auto", show_default=True, help="What Triton runs in."
    ),
    click.option(
        "--start-timeout",
        type=click.IntRange(min=0),
        metavar="SECONDS",
        help="How long Triton may take to be ready, 0 for any time [600 and 1 for each 50 MB of the engine].",
    ),
    click.option(
        "--triton-log",
        type=click.Path(dir_okay=False),
        help="The file that keeps what Triton prints [~/.local/state/hermetic/serve/NAME-PORT.log].",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show all that Triton prints."),
)


def place_of(given: dict[str, Any]) -> Place:
    """The values of `place_options`. Raises `HermeticError` (usage/two-tritons)."""
    from hermetic.serve.launch_command import Place

    told = click.get_current_context().get_parameter_source("image") is ParameterSource.COMMANDLINE
    if told and given["triton"]:
        raise HermeticError(Domain.USAGE, "two-tritons", "--image and --triton: give one of them")
    return Place("" if given["triton"] else given["image"], given["triton"], given["backends"], given["gpu"])


def talk_of(given: dict[str, Any], name: str, more: str | int) -> Talk:
    """Who hears what the Triton of `name` prints; `more` tells its log from that of another one of the name."""
    from hermetic.serve.launch_watch import Talk, log_path

    log = given["triton_log"] or log_path(settings.state_folder(), name, str(more))
    return Talk(console.note, _show if given["verbose"] else None, log)


def _show(chunk: bytes) -> None:
    sys.stderr.buffer.write(chunk)
    sys.stderr.buffer.flush()
