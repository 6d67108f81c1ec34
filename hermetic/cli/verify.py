"""``hermetic verify``: is every byte in the store what its record says?"""

from __future__ import annotations

from collections.abc import Iterable

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.digest import Key
from hermetic.errors import Domain, HermeticError
from hermetic.store import Drop, Problem, Store


@click.command("verify")
@click.argument("targets", metavar="[PATH|KEY]...", nargs=-1)
@options.store
@options.as_json
@click.option("--repair", is_flag=True, help="Drop what is damaged, so that the next realise makes it again.")
def command(targets: tuple[str, ...], store: str | None, as_json: bool, repair: bool) -> None:
    """Hash store paths again (all of them, if none is named) and name every difference.

    A difference is exit code 6. With --repair what is damaged is dropped, and the exit code is 6 only if something
    could not be.
    """
    place = open_store(store)
    keys = [place.find(target).key for target in targets] or None
    progress = _progress if console.is_terminal() else None
    if repair:
        _repaired(place, place.repair(keys, progress=progress), as_json=as_json)
        return
    problems = place.verify(keys, progress=progress)
    if as_json:
        for problem in problems:
            console.json_line(_as_json(problem))
    if problems:
        _raise(place, problems if not as_json else problems[:1], len(problems))
    console.note(f"{len(keys) if keys else 'all'} store paths are whole")


def _progress(done: int, total: int) -> None:
    from hermetic.realise.display import human_bytes

    click.echo(f"\r{human_bytes(done)} of {human_bytes(total)}\x1b[K", nl=done >= total, err=True)


def _as_json(problem: Problem) -> dict[str, object]:
    return {"path": str(problem.path), "key": problem.key.hex if problem.key else None, "what": problem.what}


def _raise(store: Store, problems: Iterable[Problem], count: int) -> None:
    hint = "`hermetic verify --repair` drops the damaged paths; the next realise makes them anew"
    raise HermeticError(Domain.STORE, "corrupt", f"{count} differences in {store.root}\n{_list(problems)}", hint=hint)


def _list(problems: Iterable[Problem]) -> str:
    return "\n".join(f"  {problem.path}: {problem.what}" for problem in problems)


def _repaired(store: Store, drops: list[Drop], *, as_json: bool) -> None:
    for drop in drops:
        if as_json:
            console.json_line(_drop_as_json(drop))
        else:
            console.data(f"{'left' if drop.why_not else 'dropped'}  {drop.path}{_because(drop)}")
            console.note(_list(drop.problems))
    left = [drop for drop in drops if drop.why_not]
    if left:
        message = f"{len(left)} of {len(drops)} damaged paths in {store.root} could not be dropped"
        raise HermeticError(Domain.STORE, "not-repaired", message, hint="run the same command when they are free")
    console.note(_summary(drops))


def _because(drop: Drop) -> str:
    if drop.why_not:
        return f"  ({drop.why_not})"
    return f"  (must be realised again: {drop.held})" if drop.held else ""


def _summary(drops: list[Drop]) -> str:
    if not drops:
        return "everything is whole; nothing was dropped"
    paths = [drop for drop in drops if drop.key is not None]
    wanted = sum(1 for drop in paths if drop.held)
    blobs = f" and {len(drops) - len(paths)} blobs" if len(drops) > len(paths) else ""
    again = f"; {wanted} of them are wanted: realise them again" if wanted else ""
    return f"dropped {len(paths)} damaged paths{blobs}; all else is whole{again}"


def _drop_as_json(drop: Drop) -> dict[str, object]:
    return {
        "path": str(drop.path),
        "key": drop.key.hex if isinstance(drop.key, Key) else None,
        "dropped": not drop.why_not,
        "why_not": drop.why_not,
        "held": drop.held,
        "problems": [_as_json(problem) for problem in drop.problems],
    }
