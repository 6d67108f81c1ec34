"""What every command can be told that starts Triton: where that comes from for engines of TensorRT-LLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hermetic.errors import Domain, HermeticError

if TYPE_CHECKING:
    from hermetic.serve.launch_command import Place

F = TypeVar("F", bound=Callable[..., object])


def place_options(function: F) -> F:
    """Where Triton comes from for engines of TensorRT-LLM."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--image", envvar="TRITON_IMAGE", default="", help="Triton's image, by digest: NAME@sha256:…"),
    click.option("--triton", default="", metavar="PROGRAM", help="A tritonserver of this machine instead."),
    click.option("--backends", default="", metavar="DIR", help="Its backends [those beside it]."),
    click.option("--gpu", default="", metavar="PRODUCT", help="What the engine needs, if nothing else says; or none."),
)


def place_of(given: dict[str, Any]) -> Place:
    """The values of `place_options`. Raises `HermeticError` (usage/two-tritons)."""
    from hermetic.serve.launch_command import Place

    told = click.get_current_context().get_parameter_source("image") is ParameterSource.COMMANDLINE
    if told and given["triton"]:
        raise HermeticError(Domain.USAGE, "two-tritons", "--image and --triton: give one of them")
    return Place("" if given["triton"] else given["image"], given["triton"], given["backends"], given["gpu"])
