"""``hermetic lock``: ask once what every image of a recipe stands for, and write it beside the recipe."""

from __future__ import annotations

import asyncio

import click

from hermetic.cli import console, options
from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.realise.evaluated import split_reference
from hermetic.recipe.environments import Image
from hermetic.recipe.loader import load
from hermetic.recipe.lockfile import PLATFORM, ImageEntry, LockFile, lock_path
from hermetic.recipe.pins import locking


@click.command("lock")
@click.argument("reference", metavar="RECIPE")
@options.setting
@options.as_json
@click.option("--update", "updates", metavar="IMAGE", multiple=True, help="Ask again for this image; repeatable.")
@click.option("--check", "check_", is_flag=True, help="Ask nobody; fail unless every image is locked.")
def command(reference: str, sets: tuple[str, ...], as_json: bool, updates: tuple[str, ...], check_: bool) -> None:
    """Write RECIPE's lock file: the manifest digest behind every image that it names, for each platform.

    What is locked stays as it is unless --update names it. An image that cannot be asked for is entered as unresolved,
    with the reason, and the command fails; what was locked before is never lost to that.
    """
    file, _ = split_reference(reference)
    images = _images(file, options.overrides(sets))
    lock = LockFile.read(lock_path(file))
    _check_names(updates, images)
    if check_:
        _check(file, images, lock)
        return
    wanted = {name: image for name, image in images.items() if _is_wanted(lock.images.get(name), name in updates)}
    before = {name: lock.images.get(name) for name in wanted}
    failures = asyncio.run(_ask(wanted, lock))
    written = lock.write()
    for name in images:
        _show(name, before.get(name), lock.images.get(name), as_json=as_json, asked=name in wanted)
    if not as_json:
        console.note(f"{lock.path} {'written' if written else 'is as it was'}")
    if failures:
        raise failures[0] if len(failures) == 1 else HermeticErrors(failures)


def _images(file: str, overrides: dict[str, str]) -> dict[str, Image]:
    """The images that need an entry, by how the recipe names them."""
    with locking():
        recipe = load(file, overrides)
    used = [place for stage in recipe.names for place in (stage.environment, stage.run_environment)]
    return {item.reference: item for item in used if isinstance(item, Image) and "@" not in item.reference}


def _check_names(updates: tuple[str, ...], images: dict[str, Image]) -> None:
    for name in updates:
        if name not in images:
            known = ", ".join(images) or "none"
            message = f"--update {name}: the recipe has no such image"
            raise HermeticError(Domain.USAGE, "unknown-image", message, hint=f"its images: {known}")


def _is_wanted(entry: ImageEntry | None, update: bool) -> bool:
    return update or entry is None or bool(entry.unresolved)


def _check(file: str, images: dict[str, Image], lock: LockFile) -> None:
    missing = [name for name in images if _is_wanted(lock.images.get(name), update=False)]
    if missing:
        message = f"{lock.path} does not lock {', '.join(missing)}"
        raise HermeticError(Domain.RECIPE, "not-locked", message, hint=f"hermetic lock {file}")


async def _ask(wanted: dict[str, Image], lock: LockFile) -> list[HermeticError]:
    """Fill in the entries; those that could not be had keep what they were, or become unresolved."""
    from hermetic.fetch.oci import resolve

    asked = (resolve(image.location, source=name) for name, image in wanted.items())
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failures = []
    for name, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, ImageEntry):
            lock.images[name] = answer
        elif isinstance(answer, HermeticError):
            failures.append(answer)
            if _is_wanted(lock.images.get(name), update=False):
                lock.images[name] = ImageEntry(unresolved=answer.message)
        else:
            raise answer
    return failures


def _show(name: str, before: ImageEntry | None, now: ImageEntry | None, *, as_json: bool, asked: bool) -> None:
    if now is None:
        return
    locked = now.platforms.get(PLATFORM)
    digest = locked.digest if locked is not None else ""
    moved = asked and before is not None and before != now
    if as_json:
        console.json_line({"image": name, "asked": asked, "changed": asked and before != now, **now.document()})
        return
    state = (now.unresolved and "unresolved") or ("moved" if moved else "locked" if asked else "kept")
    console.data(f"{state:10} {name} {digest or now.unresolved or ', '.join(now.platforms)}")
