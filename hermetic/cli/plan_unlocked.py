"""The plan of a recipe whose pins are not locked yet: its stages, and what their keys wait for."""

from __future__ import annotations

from collections.abc import Iterator

from hermetic.cli import console, options
from hermetic.cli.locking import Pins
from hermetic.errors import HermeticError, HermeticErrors
from hermetic.recipe import FixedOutput, Image, Recipe, Stage, load
from hermetic.recipe.lockfile import LockFile, lock_path
from hermetic.recipe.pins import locking

__all__ = ["is_unlocked", "show"]


def is_unlocked(error: HermeticError) -> bool:
    """Whether nothing but pins that nobody has asked for keeps the recipe from being evaluated."""
    return all(one.reason == "not-locked" for one in _each(error))


def _each(error: HermeticError) -> list[HermeticError]:
    return error.errors if isinstance(error, HermeticErrors) else [error]


def show(reference: tuple[str, str | None], sets: tuple[str, ...], stopped: HermeticError, *, as_json: bool) -> None:
    """Print a line for each stage that the one of `reference` needs, and why there are no keys and paths yet.

    Raises `HermeticError` for what else is wrong with the recipe.
    """
    file, name = reference
    from hermetic.cli.lock import pins_of

    with locking():
        recipe = load(file, options.overrides(sets))
    groups: list[Pins] = pins_of(recipe, LockFile.read(lock_path(file)))
    missing = {pin for group in groups for pin in group.missing()}
    needed = list(_needed(recipe.select(name), recipe))
    for stage in needed:
        pins = sorted(_own(stage) & missing)
        if as_json:
            console.json_line({"stage": recipe.names[stage], "action": "unlocked", "pins": pins})
        else:
            console.data(f"{'unlocked':9} {recipe.names[stage]:16} {', '.join(pins) or 'waits for its inputs'}")
    for one in _each(stopped):
        console.warning(one.message)
    if not as_json:
        count = len({pin for stage in needed for pin in _own(stage)} & missing)
        console.note(f"{_many(len(needed), 'stage')}, no keys: {_many(count, 'pin')} not locked: hermetic lock {file}")


def _needed(target: Stage | FixedOutput, recipe: Recipe) -> Iterator[Stage]:
    """What `target` and its checks are made from, inputs first."""
    seen: set[int] = set()

    def walk(stage: Stage) -> Iterator[Stage]:
        if id(stage) in seen:
            return
        seen.add(id(stage))
        for item in stage.inputs_by_role().values():
            if isinstance(item, Stage):
                yield from walk(item)
        yield stage

    for wanted in (target, *recipe.checks_of(target)):
        if isinstance(wanted, Stage):
            yield from walk(wanted)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _own(stage: Stage) -> set[str]:
    """The pins that `stage` itself names."""
    places = (stage.environment, stage.run_environment)
    images = {place.reference for place in places if isinstance(place, Image)}
    return images | {item.uri for item in stage.inputs_by_role().values() if isinstance(item, FixedOutput)}
