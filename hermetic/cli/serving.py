"""From what a user names to what can be served: the first step of every way of serving."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from hermetic.cli import approved, console, drivers, settings
from hermetic.cli.common import Opened, open_store, opened
from hermetic.cli.realise import indexes, listener
from hermetic.errors import Domain, HermeticError
from hermetic.llm.triton import Repository
from hermetic.realise.evaluated import split_reference
from hermetic.realise.launcher import Launcher
from hermetic.realise.session import Options, realise
from hermetic.recipe import Image, Memo, Source
from hermetic.recipe.loader import SUFFIXES
from hermetic.sandbox import podman
from hermetic.serve.launch import Subject, launcher_of, lay_out_repository
from hermetic.serve.triton_needs import Known
from hermetic.serve.triton_subject import find_engine, vouch
from hermetic.store import Run, Store

__all__ = ["Prepared", "Wish", "engine_prepared", "prepared"]


@dataclass(frozen=True)
class Wish:
    """What is asked for on the command line; `links` is the folder of links to engines, `options` are those of
    `Repository` for an engine that has none yet.
    """

    target: str
    links: str
    sets: tuple[str, ...] = ()
    store: str | None = None
    manifest: str | None = None
    tokenizer: str | None = None
    repository: str | None = None
    runtime: str = "auto"
    options: dict[str, int | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A subject for `serving`, and what starts it. `link` is what shows the engine, if anything does."""

    subject: Subject
    launcher: Launcher
    link: str = ""


@contextmanager
def prepared(wish: Wish) -> Iterator[Prepared]:
    """Realise or find engine, tokenizer and repository, and keep them from the collector meanwhile.

    Raises `HermeticError`; what `find_engine`, `vouch` and realising raise. Not for use inside an event loop.
    """
    file, _ = split_reference(wish.target)
    if file.endswith(SUFFIXES) and not os.path.isdir(file):
        with _of_recipe(wish) as found:
            yield found
        return
    with _of_engine(wish) as found:
        yield found


@contextmanager
def _of_recipe(wish: Wish) -> Iterator[Prepared]:
    runtime = podman.choose(wish.runtime)
    session = opened(wish.target, wish.sets, wish.store)
    target = session.evaluated.wanted[0]
    stage = None if target.fixed is not None else target.stage
    if not isinstance(stage, Repository):
        stages = [name for name, one in session.evaluated.recipe.stages.items() if isinstance(one, Repository)]
        message = f"stage {target.name!r} is no triton_repository"
        hint = f"these can be served: {', '.join(stages)}" if stages else "add repository = triton_repository(engine)"
        raise HermeticError(Domain.USAGE, "not-a-repository", message, hint=hint)
    if wish.options or wish.repository or wish.manifest:
        message = "a recipe says itself what its repository is"
        raise HermeticError(Domain.USAGE, "recipe-decides", message, hint="change the recipe, or use --set")
    with session.store.begin() as run:
        run.lease([target.key, *(key for _, key in target.built_inputs())])
        _realise(session, runtime)
        folders = _folders(session, stage)
        tokenizer = wish.tokenizer or folders.get("tokenizer", folders["engine"])
        repository = str(session.store.path(target.key, target.name))
        known, image = _said_by(stage, folders)
        name = os.path.basename(session.reference)
        subject = Subject(name, repository, folders["engine"], tokenizer, known, image)
        yield Prepared(subject, launcher_of(run, indexes(), session.memo, runtime))


def _said_by(stage: Repository, folders: dict[str, str]) -> tuple[Known, Image | None]:
    """What a recipe says of the engine, and the image for its Triton: the repository's own, else the engine's."""
    manifest = os.path.join(folders["manifest"], "manifest.json") if "manifest" in folders else ""
    engine = stage.engine
    if isinstance(engine, Source):
        return Known(manifest), stage.server
    runs_in = stage.server or engine.run_environment
    known = Known(manifest, engine.run_gpu, str(getattr(engine, "release", "")))
    return known, runs_in if isinstance(runs_in, Image) else None


def _realise(session: Opened, runtime: str) -> None:
    """The target and what it serves: an engine may have been collected since its repository was made."""
    approved.refuse(session, testing=False)
    drivers.refuse(session)
    with listener(session.store, as_json=False) as display:
        realise(session.evaluated, session.store, Options(indexes=indexes(), runtime=runtime), display)


def _folders(session: Opened, stage: Repository) -> dict[str, str]:
    graph, store = session.evaluated.graph, session.store
    found = {}
    for role, one in stage.inputs_by_role().items():
        if isinstance(one, Source):
            found[role] = one.path
        else:
            item = graph.by_stage[one]
            found[role] = str(store.path(item.key, item.name))
    return found


@contextmanager
def _of_engine(wish: Wish) -> Iterator[Prepared]:
    with asyncio.Runner() as runner:
        manager = engine_prepared(wish)
        found = runner.run(manager.__aenter__())
        try:
            yield found
        finally:
            runner.run(manager.__aexit__(None, None, None))


@asynccontextmanager
async def engine_prepared(wish: Wish) -> AsyncIterator[Prepared]:
    """As `prepared`, of an engine that no recipe names, inside an event loop of the main thread."""
    store = open_store(wish.store, create=True)
    memo = Memo(os.path.join(settings.cache_folder(), "digests.json"))
    with store.begin() as run:
        engine = find_engine(wish.target, store, wish.links, os.environ)
        console.note(f"{engine.name}: {engine.path} ({engine.found})")
        _lease(run, store, engine.path)
        manifest = await asyncio.to_thread(vouch, engine, wish.manifest, store)
        launcher = launcher_of(run, indexes(), memo, podman.choose(wish.runtime))
        memo.save()
        tokenizer = wish.tokenizer or engine.path
        with run.workspace() as workspace:
            repository = wish.repository
            if repository is None:
                folders = {"engine": engine.path}
                folders |= {"tokenizer": tokenizer} if tokenizer != engine.path else {}
                folders |= {"manifest": os.path.dirname(manifest)} if manifest is not None else {}
                place = str(workspace.path)
                repository = await lay_out_repository(engine.name, launcher, folders, wish.options, place)
            subject = Subject(engine.name, repository, engine.path, tokenizer, Known(manifest or ""))
            yield Prepared(subject, launcher, engine.link)


def _lease(run: Run, store: Store, path: str) -> None:
    try:
        run.lease([store.find(os.path.realpath(path)).key])
    except HermeticError:
        return  # not of this store, which has nothing to keep then
