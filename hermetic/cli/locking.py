"""What ``hermetic lock`` can pin: images, and fixed outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hermetic.errors import HermeticError
from hermetic.recipe.environments import Image
from hermetic.recipe.fixed import FixedOutput
from hermetic.recipe.lockfile import PLATFORM, FixedEntry, ImageEntry, LockedImage, LockFile

__all__ = ["Answer", "Fixed", "Images", "Pins"]

_AT_ONCE: Final = 4
_LINES: Final = 20  # of changed files that are shown one by one


@dataclass(frozen=True)
class Answer:
    """What became of one pin. `state` is kept, locked, moved or unresolved; `changes` say how it moved."""

    kind: str
    name: str
    state: str
    shown: str
    entry: Mapping[str, Any]
    asked: bool
    changed: bool
    changes: list[str] = field(default_factory=list)
    failure: HermeticError | None = None

    def document(self) -> dict[str, Any]:
        head = {self.kind: self.name, "asked": self.asked, "changed": self.changed}
        return head | ({"changes": self.changes} if self.changes else {}) | dict(self.entry)


class Pins(Protocol):
    """Pins of one kind."""

    names: list[str]

    def named(self, name: str) -> list[str]:
        """The pins that a user means by `name`."""
        ...

    def missing(self) -> list[str]:
        """Those that are not locked, or not all that is wanted of them."""
        ...

    def ask(self, updates: Iterable[str]) -> Iterator[Answer]:
        """Ask for what is missing and for `updates`, and put the answers into the lock file."""
        ...


class Images:
    """The images of a recipe, by reference; of `layered` also which Python is inside."""

    def __init__(self, images: Mapping[str, Image], lock: LockFile, layered: Iterable[Image] = ()) -> None:
        self.names = list(images)
        self._images = images
        self._lock = lock
        self._layered = list(layered)

    def named(self, name: str) -> list[str]:
        return [name] if name in self._images else []

    def missing(self) -> list[str]:
        pythons = {image.reference for image in self._layered if self._python_is_missing(image)}
        return [name for name in self.names if _is_missing(self._lock.images.get(name)) or name in pythons]

    def _python_is_missing(self, image: Image) -> bool:
        entry = self._lock.images.get(image.reference)
        locked = entry.platforms.get(PLATFORM) if entry is not None else None
        return locked is not None and image.python not in locked.pythons

    def ask(self, updates: Iterable[str]) -> Iterator[Answer]:
        asked = [name for name in self.names if name in self.missing() or name in set(updates)]

        async def everything() -> list[ImageEntry | BaseException]:
            work = (self._resolved(name, again=name in set(updates)) for name in asked)
            return [await self._with_pythons(name, got) for name, got in zip(asked, await _all(work), strict=True)]

        answers = dict(zip(asked, asyncio.run(everything()), strict=True))
        return (self._answer(name, answers.get(name)) for name in self.names)

    async def _resolved(self, name: str, *, again: bool) -> ImageEntry:
        """What is locked already, unless it is to be asked `again`: a tag does not move because wheels came."""
        from hermetic.fetch.oci import resolve  # slow to import

        known = self._lock.images.get(name)
        if known is not None and not known.unresolved and not again:
            return known
        return await resolve(self._images[name].location, source=name)

    async def _with_pythons(self, name: str, got: ImageEntry | BaseException) -> ImageEntry | BaseException:
        """The entry with what each interpreter says that wheels are for; for this machine's platform only."""
        locked = got.platforms.get(PLATFORM) if isinstance(got, ImageEntry) else None
        wanted = [image for image in self._layered if image.reference == name]
        if locked is None or not isinstance(got, ImageEntry):
            return got
        pythons = dict(locked.pythons)
        try:
            for image in wanted:
                if image.python not in pythons:
                    pythons[image.python] = await _ask_inside(image, locked)
        except HermeticError as error:
            return error
        return got.model_copy(
            update={"platforms": got.platforms | {PLATFORM: locked.model_copy(update={"pythons": pythons})}}
        )

    def _answer(self, name: str, got: ImageEntry | BaseException | None) -> Answer:
        before = self._lock.images.get(name)
        failure = got if isinstance(got, HermeticError) else None
        if isinstance(got, ImageEntry):
            self._lock.images[name] = got
        elif failure is not None and _is_missing(before):
            self._lock.images[name] = ImageEntry(unresolved=failure.message)
        elif got is not None and failure is None:
            raise got
        now = self._lock.images[name]
        locked = now.platforms.get(PLATFORM)
        shown = (locked.digest if locked is not None else "") or now.unresolved or ", ".join(now.platforms)
        state = _state(now.unresolved, asked=got is not None, moved=before is not None and before != now)
        return Answer("image", name, state, shown, now.document(), got is not None, before != now, failure=failure)


async def _all(work: Iterable[Coroutine[Any, Any, ImageEntry]]) -> list[ImageEntry | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


async def _ask_inside(image: Image, locked: LockedImage) -> str:
    """Brings the image into the store: there is no other way to know."""
    from hermetic.cli.common import open_store
    from hermetic.sandbox import image_python, podman

    pinned = image.model_copy(update={"digest": locked.digest, "config": locked.config, "variables": locked.variables})
    with open_store(None, create=True).begin() as run:
        return await image_python.ask(pinned, run, runtime=podman.choose("auto"))


class Fixed:
    """The fixed outputs of a recipe, by address."""

    def __init__(self, outputs: Mapping[str, list[FixedOutput]], lock: LockFile) -> None:
        self.names = list(outputs)
        self._outputs = outputs
        self._lock = lock

    def named(self, name: str) -> list[str]:
        """A whole address, a repository (``Qwen/Qwen3-32B``), or what the store path would be called."""
        return [uri for uri in self.names if name in {uri, _repository(uri), self._outputs[uri][0].name}]

    def missing(self) -> list[str]:
        return [uri for uri in self.names if self._is_missing(uri)]

    def _is_missing(self, uri: str) -> bool:
        entry = self._lock.fixed.get(uri)
        problems = [output.problem(entry) for output in self._outputs[uri]]
        # Not accepting a licence is the recipe's matter; nobody else can answer.
        return any(problem is not None and problem.reason != "licence-not-accepted" for problem in problems)

    def ask(self, updates: Iterable[str]) -> Iterator[Answer]:
        from hermetic.fetch.fixed import resolve  # slow to import

        moving = {uri for name in updates for uri in self.named(name)}
        asked = [uri for uri in self.names if uri in moving or self._is_missing(uri)]

        def one(uri: str) -> FixedEntry | HermeticError:
            known = self._lock.fixed.get(uri)
            try:
                return resolve(self._outputs[uri], None if uri in moving or _is_missing(known) else known)
            except HermeticError as error:
                return error

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = dict(zip(asked, pool.map(one, asked), strict=True))
        return (self._answer(uri, answers.get(uri)) for uri in self.names)

    def _answer(self, uri: str, got: FixedEntry | HermeticError | None) -> Answer:
        before = self._lock.fixed.get(uri)
        if isinstance(got, FixedEntry):
            self._lock.fixed[uri] = got
        elif got is not None and _is_missing(before):
            self._lock.fixed[uri] = FixedEntry(unresolved=got.message)
        now = self._lock.fixed[uri]
        failure = got if isinstance(got, HermeticError) else self._judged(uri, now)
        total = sum(file.size for output in self._outputs[uri] for file in output.selected(now).values())
        shown = now.unresolved or f"{now.commit or now.source}  {total:,} bytes"
        state = _state(now.unresolved, asked=got is not None, moved=before is not None and before != now)
        changes = [] if before is None or before.unresolved else _changes(before, now)
        return Answer("fixed", uri, state, shown, now.document(), got is not None, before != now, changes, failure)

    def _judged(self, uri: str, now: FixedEntry) -> HermeticError | None:
        """What is wrong with the answer: patterns that choose nothing, a licence that nobody has accepted."""
        return next((found for output in self._outputs[uri] if (found := output.problem(now)) is not None), None)


def _is_missing(entry: ImageEntry | FixedEntry | None) -> bool:
    return entry is None or bool(entry.unresolved)


def _state(unresolved: str, *, asked: bool, moved: bool) -> str:
    return (unresolved and "unresolved") or ("moved" if moved else "locked" if asked else "kept")


def _repository(uri: str) -> str:
    return uri.removeprefix("hf://").removeprefix("datasets/").rpartition("@")[0] if uri.startswith("hf://") else uri


def _changes(before: FixedEntry, now: FixedEntry) -> list[str]:
    lines = []
    if before.commit != now.commit:
        lines.append(f"commit {before.commit} -> {now.commit}")
    if before.licence != now.licence:
        lines.append(f"licence {before.licence or 'none stated'} -> {now.licence or 'none stated'}")
    files = []
    for name in sorted({*before.files, *now.files}):
        old, new = before.files.get(name), now.files.get(name)
        if old is None or new is None:
            files.append(f"{'added' if old is None else 'removed'} {name}")
        elif (old.size, old.git or old.sha256) != (new.size, new.git or new.sha256):
            files.append(f"changed {name}  {old.size:,} -> {new.size:,} bytes")
    more = [f"and {len(files) - _LINES} more files"] if len(files) > _LINES else []
    return [*lines, *files[:_LINES], *more]
