"""``hermetic lock``: ask once what a recipe's images and fixed outputs stand for, and write it beside the recipe."""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.locking import Answer, Fixed, Images, Pins
from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.realise.evaluated import split_reference
from hermetic.recipe.environments import Image
from hermetic.recipe.fixed import FixedOutput
from hermetic.recipe.loader import Recipe, load
from hermetic.recipe.lockfile import LockFile, lock_path
from hermetic.recipe.pins import locking


@click.command("lock")
@click.argument("reference", metavar="RECIPE")
@options.setting
@options.as_json
@click.option("--update", "updates", metavar="NAME", multiple=True, help="Ask again for this one; repeatable.")
@click.option("--check", "check_", is_flag=True, help="Ask nobody; fail unless everything is locked.")
def command(reference: str, sets: tuple[str, ...], as_json: bool, updates: tuple[str, ...], check_: bool) -> None:
    """Write RECIPE's lock file: the manifest digest behind every image that it names, for each platform; for every
    fixed output the commit, and size and sha256 of every file.

    What is locked stays as it is unless --update names it. What cannot be asked for is entered as unresolved, with
    the reason, and the command fails; what was locked before is never lost to that.
    """
    file, _ = split_reference(reference)
    lock = LockFile.read(lock_path(file))
    with locking():
        recipe = load(file, options.overrides(sets))
    groups = pins_of(recipe, lock)
    _check_names(updates, groups)
    if check_:
        _check(file, groups, lock)
        return
    asked = [answer for group in groups for answer in group.ask(updates)]
    written = lock.write()
    for answer in asked:
        _show(answer, as_json=as_json)
    if not as_json:
        console.note(f"{lock.path} {'written' if written else 'is as it was'}")
    failures = [answer.failure for answer in asked if answer.failure is not None]
    if failures:
        raise failures[0] if len(failures) == 1 else HermeticErrors(failures)


def pins_of(recipe: Recipe, lock: LockFile) -> list[Pins]:
    """Everything that `recipe` names and `lock` pins, or should."""
    return [Images(_images(recipe), lock, _with_wheels(recipe)), Fixed(_fixed(recipe), lock)]


def _images(recipe: Recipe) -> dict[str, Image]:
    """The images that need an entry, by how the recipe names them."""
    used = [place for stage in recipe.names for place in (stage.environment, stage.run_environment)]
    return {item.reference: item for item in used if isinstance(item, Image) and "@" not in item.reference}


def _with_wheels(recipe: Recipe) -> list[Image]:
    """Those whose Python must be known, because wheels are laid over them and nobody has declared it."""
    used = [place for stage in recipe.names for place in (stage.environment, stage.run_environment)]
    layered = [item for item in used if isinstance(item, Image) and item.wheels and not item.wheels.declared]
    return [item for item in layered if "@" not in item.reference]


def _fixed(recipe: Recipe) -> dict[str, list[FixedOutput]]:
    """Every fixed output that the recipe names or that a stage of it reads, by address."""
    inputs = [item for stage in recipe.names for item in stage.inputs_by_role().values()]
    found: dict[str, list[FixedOutput]] = {}
    for item in [*recipe.fixed.values(), *inputs]:
        if isinstance(item, FixedOutput) and item not in found.setdefault(item.uri, []):
            found[item.uri].append(item)
    return found


def _check_names(updates: tuple[str, ...], groups: list[Pins]) -> None:
    for name in updates:
        if not any(group.named(name) for group in groups):
            known = ", ".join(pin for group in groups for pin in group.names) or "none"
            message = f"--update {name}: the recipe has nothing of that name to lock"
            raise HermeticError(Domain.USAGE, "unknown-pin", message, hint=f"its names: {known}")


def _check(file: str, groups: list[Pins], lock: LockFile) -> None:
    missing = [name for group in groups for name in group.missing()]
    if missing:
        message = f"{lock.path} does not lock {', '.join(missing)}"
        raise HermeticError(Domain.RECIPE, "not-locked", message, hint=f"hermetic lock {file}")


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        console.json_line(answer.document())
        return
    console.data(f"{answer.state:10} {answer.name} {answer.shown}")
    for line in answer.changes:
        console.data(f"{'':10} {line}")
