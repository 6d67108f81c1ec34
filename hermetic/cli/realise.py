"""``hermetic realise``: make a stage's store path exist."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from hermetic.cli import approved, console, drivers, options, settings
from hermetic.cli.common import Opened, opened
from hermetic.errors import Domain, HermeticError
from hermetic.realise.display import Live, Plain, State
from hermetic.realise.events import Event, Listener
from hermetic.realise.session import Options, check, realise
from hermetic.sandbox.podman import RUNTIMES
from hermetic.store import Store


@click.command("realise")
@options.recipe
@options.setting
@options.store
@options.as_json
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done and stop.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Cores that stages may use together [all].")
@click.option("--runtime", type=click.Choice(RUNTIMES), default="auto", show_default=True, help="What stages run in.")
@click.option("--keep-failed", is_flag=True, help="Keep the workspace of a failed stage and say where it is.")
@click.option("--keep-going", is_flag=True, help="After a failure, go on with stages that do not need it.")
@click.option("--test-images", is_flag=True, help="Let stages run in images that are in test (hermetic image).")
@click.option("--check", "check_", is_flag=True, help="Build the stage once more and grade how alike the two are.")
@click.option("-o", "--out-link", type=click.Path(path_type=Path), default=Path("result"), show_default=True)
@click.option("--no-link", is_flag=True, help="Make no link; the path may be collected at any time.")
def command(
    reference: str,
    sets: tuple[str, ...],
    store: str | None,
    as_json: bool,
    dry_run: bool,
    jobs: int | None,
    runtime: str,
    keep_failed: bool,
    keep_going: bool,
    test_images: bool,
    check_: bool,
    out_link: Path,
    no_link: bool,
) -> None:
    """Make the store path of a recipe's stage exist, and print it.

    Stages that are in place are not run again; a stage whose inputs turn out to be the same bytes as before adopts
    the earlier result. Checks of the stage (its smoke test) must succeed before it counts.
    """
    session = opened(reference, sets, store)
    approved.refuse(session, testing=test_images)
    if dry_run:
        _dry_run(session, as_json=as_json)
        return
    drivers.refuse(session)
    chosen = Options(
        jobs=jobs or _jobs(),
        keep_failed=keep_failed,
        keep_going=keep_going,
        indexes=indexes(),
        runtime=runtime,
        out_link=None if no_link else Path(os.path.abspath(out_link)),
    )
    if check_:
        _check(session, chosen, as_json=as_json)
        return
    with listener(session.store, as_json=as_json) as display:
        found = realise(session.evaluated, session.store, chosen, display)
    target = found[session.evaluated.wanted[0].key]
    path = session.store.path(target.key, target.name)
    session.remember()
    if as_json:
        result = Event("result", data={"path": str(path), "key": target.key.hex, "tree": target.tree.hex})
        console.json_line(result.as_json())
    else:
        console.data(str(path))


def _check(session: Opened, chosen: Options, *, as_json: bool) -> None:
    with listener(session.store, as_json=as_json) as display:
        checked = check(session.evaluated, session.store, chosen, display)
    again = str(checked.again.path(session.store))
    if as_json:
        console.json_line({"event": "check", "grade": checked.grade, "wanted": checked.wanted, "again": again})
    else:
        console.data(checked.grade)
    if not checked.good:
        first = checked.first.path(session.store)
        raise HermeticError(
            Domain.REPRODUCIBILITY,
            "grade-too-low",
            f"{first} and a second build of it are graded {checked.grade}; the stage promises {checked.wanted}",
            hint=f"hermetic diff {first} {again}",
        )


def _dry_run(session: Opened, *, as_json: bool) -> None:
    from hermetic.cli.plan import show

    show(session, as_json=as_json)


def _jobs() -> int | None:
    setting = settings.find("jobs")
    return setting.value if setting is not None and isinstance(setting.value, int) else None


def indexes() -> dict[str, str]:
    setting = settings.find("index")
    table = setting.value if setting is not None else {}
    return {str(name): str(address) for name, address in table.items()} if isinstance(table, dict) else {}


@contextlib.contextmanager
def listener(store: Store, *, as_json: bool) -> Iterator[Listener]:
    if as_json:
        yield lambda event: console.json_line(event.as_json())
        return
    state = State(_history(store))
    with Live(state) if console.is_terminal() else Plain(state) as display:
        yield display


def _history(store: Store) -> Callable[[str], float | None]:
    """Seconds that a stage of this name took the last time, as the best guess for this time."""
    return store.durations().get
