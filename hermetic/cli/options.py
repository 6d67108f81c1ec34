"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from hermetic.errors import Domain, HermeticError

__all__ = ["as_json", "overrides", "recipe", "setting", "store"]

F = TypeVar("F", bound=Callable[..., object])

store = click.option("--store", metavar="DIR", help="The store [HERMETIC_STORE, or the user's data folder].")
as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON, one document on each line.")
setting = click.option(
    "--set", "sets", metavar="NAME=VALUE", multiple=True, help="Give a parameter of the recipe a value; repeatable."
)
recipe = click.argument("reference", metavar="RECIPE[#STAGE]")


def overrides(sets: tuple[str, ...]) -> dict[str, str]:
    """The values of ``--set``, by name. Raises `HermeticError` (usage/bad-set)."""
    values = {}
    for item in sets:
        name, mark, value = item.partition("=")
        if not mark or not name:
            raise HermeticError(Domain.USAGE, "bad-set", f"--set {item}: expected NAME=VALUE")
        values[name] = value
    return values
