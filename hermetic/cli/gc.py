"""``hermetic gc``: remove what nothing keeps alive."""

from __future__ import annotations

import dataclasses

import click

from hermetic.cli import console, options
from hermetic.cli.common import open_store
from hermetic.cli.quantities import AGE, SIZE
from hermetic.errors import Domain, HermeticError
from hermetic.store import Collection, Fate, Wishes


@click.command("gc")
@options.store
@options.as_json
@click.option("-n", "--dry-run", is_flag=True, help="Show what would go and what would stay, and why; change nothing.")
@click.option("--max-size", type=SIZE, help="Remove only until the store's paths take no more than that.")
@click.option("--min-free", type=SIZE, help="Remove only until its file system has that much free.")
@click.option("--older-than", type=AGE, help="Only what was realised that long ago; logs that old go too.")
@click.option("--failed", is_flag=True, help="Also the folders of failed builds, downloads cut short, and wrong bytes.")
def command(
    store: str | None,
    as_json: bool,
    dry_run: bool,
    max_size: int | None,
    min_free: int | None,
    older_than: int | None,
    failed: bool,
) -> None:
    """Remove store paths that no root, profile or running build needs.

    With --max-size or --min-free what is cheapest to have back for its size goes first, and as little as needed.
    Any number of builds may go on meanwhile. If it is stopped, the next one finishes.
    """
    wishes = Wishes(max_size=max_size, min_free=min_free, older_than=older_than, failed=failed, dry_run=dry_run)
    done = open_store(store).collect(wishes)
    for fate in done.fates:
        if as_json:
            console.json_line(_as_json(fate))
        elif fate.removed or dry_run:
            console.data(_line(fate))
    if as_json:
        console.json_line({**_totals(done), "dry_run": dry_run})
    else:
        console.note(_summary(done))
    if done.short:
        raise _too_little(done)


def _as_json(fate: Fate) -> dict[str, object]:
    key = fate.key.hex if fate.key is not None else None
    return {**dataclasses.asdict(fate), "path": str(fate.path), "key": key}


def _totals(done: Collection) -> dict[str, object]:
    return {
        "removed": len(done.removed),
        "kept": len(done.kept),
        "freed": done.freed,
        "attempts": done.attempts,
        "short": done.short,
    }


def _line(fate: Fate) -> str:
    from hermetic.realise.display import human_bytes

    return f"{human_bytes(fate.freed) if fate.removed else 'kept':>9}  {fate.path}  ({fate.reason})"


def _summary(done: Collection) -> str:
    from hermetic.realise.display import human_bytes

    verb = "would remove" if done.dry_run else "removed"
    logs = f" and the records of {done.attempts} builds" if done.attempts else ""
    return f"{verb} {len(done.removed)} paths{logs}, {human_bytes(done.freed)}; {len(done.kept)} stay"


def _too_little(done: Collection) -> HermeticError:
    from hermetic.realise.display import human_bytes

    return HermeticError(
        Domain.ENVIRONMENT,
        "not-enough-garbage",
        f"{human_bytes(done.short)} more would have to go, but something keeps alive all that is left",
        hint="`hermetic gc --dry-run` says what; `hermetic root remove` or `hermetic profile prune` gives it up",
    )
