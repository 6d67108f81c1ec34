"""``hermetic verify``: is every byte in the store what its record says?"""

from __future__ import annotations

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.errors import Domain, HermeticError
from hermetic.store import Store


@click.command("verify")
@click.argument("targets", metavar="[PATH|KEY]...", nargs=-1)
@options.store
@options.as_json
def command(targets: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Hash store paths again (all of them, if none is named) and name every difference. A difference is exit code 6."""
    place = open_store(store)
    keys = [place.find(target).key for target in targets] or None
    problems = place.verify(keys, progress=_progress if console.is_terminal() else None)
    if as_json:
        for problem in problems:
            console.json_line({"key": str(problem.key or ""), "path": str(problem.path), "what": problem.what})
    if problems:
        _raise(place, problems if not as_json else problems[:1], len(problems))
    console.note(f"{len(keys) if keys else 'all'} store paths are whole")


def _progress(done: int, total: int) -> None:
    from hermetic.realise.display import human_bytes

    click.echo(f"\r{human_bytes(done)} of {human_bytes(total)}\x1b[K", nl=done >= total, err=True)


def _raise(store: Store, problems: list, count: int) -> None:  # type: ignore[type-arg]
    lines = "\n".join(f"  {problem.path}: {problem.what}" for problem in problems)
    hint = f"delete the damaged paths' records under {store.root}/realisations; the next realise makes them anew"
    raise HermeticError(Domain.STORE, "corrupt", f"{count} differences in {store.root}\n{lines}", hint=hint)
