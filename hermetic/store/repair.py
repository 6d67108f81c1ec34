"""``verify --repair``: drop what is damaged, so that the next realise makes it again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hermetic.digest import Key
from hermetic.errors import HermeticError
from hermetic.store import images, mark, records, trash
from hermetic.store.checking import Hashes
from hermetic.store.collecting import check_owner
from hermetic.store.faults import storing
from hermetic.store.locks import collector_alone
from hermetic.store.pending import sync_file_system
from hermetic.store.syncpoint import reach
from hermetic.store.verify import Problem, blob_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hermetic.store.store import Store

__all__ = ["Drop", "repair"]


@dataclass(frozen=True, slots=True)
class Drop:
    """What was done about one damaged path, or image or blob (`key` is None then).

    `held` says what still wants it, which must be realised again; `why_not` why it was left as it is, empty if it was
    dropped.
    """

    key: Key | None
    path: Path
    problems: tuple[Problem, ...]
    held: str = ""
    why_not: str = ""


def repair(
    store: Store, keys: Iterable[Key] | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Drop]:
    """Verify, and drop every damaged realisation, image and blob. Nothing whole is touched; empty when all is.

    A path that a living run has leased, or whose key somebody holds, stays until they are done. Safe to be killed at
    any moment: a record goes before its output, and what is left is the next collection's.

    Raises `HermeticError`: environment/not-the-owner, store/unreadable-lease, environment/store-read-only.
    """
    check_owner(str(store.root))
    by_key: dict[Key, list[Problem]] = {}
    blobs: list[Problem] = []
    damaged: dict[str, None] = {}
    for problem in store.verify(keys, progress=progress):
        if problem.key is not None:
            by_key.setdefault(problem.key, []).append(problem)
        elif (digest := _image_of(store, problem.path)) is not None:
            damaged[digest] = None
        else:
            blobs.append(problem)
    with storing(str(store.root)):
        dropped = [_drop(store, key) for key in by_key]
        dropped += [_drop_image(store, digest) for digest in damaged]
        dropped += [_drop_blob(problem) for problem in blobs]
        trash.empty(store.layout)
    return [drop for drop in dropped if drop is not None]


def _drop(store: Store, key: Key) -> Drop | None:
    lock = store.lock(key)
    if not lock.try_acquire():
        return Drop(key, _path(store, key), (), why_not="somebody is realising it")
    try:
        # Read again now that nobody can be mending it: whoever held the lock may have done so.
        problems = tuple(store.verify([key])) if os.path.lexists(store.layout.record(key)) else ()
        if not problems:
            return None
        with collector_alone(str(store.root)):
            users = {leased.base32: run for leased, run in mark.leased(store.layout)}
            path = _path(store, key)
            if key.base32 in users:
                return Drop(key, path, problems, why_not=f"run {users[key.base32]} is using it")
            held = _held(store, key)
            _forget(store, key, problems)
            return Drop(key, path, problems, held=held)
    finally:
        lock.release()


def _held(store: Store, key: Key) -> str:
    try:
        return mark.held(store.layout).get(key.base32, "")
    except HermeticError as error:  # one root cannot be read: no reason to keep what is damaged
        return error.message


def _forget(store: Store, key: Key, problems: tuple[Problem, ...]) -> None:
    layout = store.layout
    record = records.read_record(layout, key)
    if record is not None:
        _drop_files(store, problems)
        if record.resolved is not None:
            trash.unlink(f"{layout.resolved(record.resolved)}/{key.hex}")
    trash.unlink(layout.record(key))
    reach("repair.after-record")
    if any(problem.path == Path(layout.preimage(key)) for problem in problems):
        trash.unlink(layout.preimage(key))
    sync_file_system(layout.root)
    reach("repair.after-sync")
    for name in os.listdir(layout.folder("store")):
        if name.startswith(f"{key.base32}-"):
            trash.throw(layout, f"{layout.root}/store/{name}")
    reach("repair.after-move")


def _drop_files(store: Store, problems: tuple[Problem, ...]) -> None:
    """Unlink the blobs that are the damaged files themselves: a later ingest would have to read them to find out."""
    inodes = {status.st_ino for problem in problems if (status := _status(problem.path)) is not None}
    for name in records.names_below(store.layout.folder("blobs")):
        path = Path(f"{store.root}/blobs/{name[:2]}/{name}")
        if (status := _status(path)) is not None and status.st_ino in inodes:
            trash.unlink(str(path))
    reach("repair.after-blobs")


def _image_of(store: Store, path: Path) -> str | None:
    """The digest of the image that `path` lies in, if it lies in one."""
    folder = store.root / "images"
    return f"sha256:{path.relative_to(folder).parts[0]}" if path.is_relative_to(folder) else None


def _drop_image(store: Store, digest: str) -> Drop | None:
    """The next stage that wants it brings it again."""
    layout, key = store.layout, images.key_of(digest)
    path = Path(images.folder_of(layout.root, digest))
    lock = store.lock(key)
    if not lock.try_acquire():
        return Drop(None, path, (), why_not="somebody is unpacking it")
    try:
        image = images.read(layout.root, digest)
        found = (
            () if image is None else tuple(Problem(None, path / name, what) for name, what in images.problems(image))
        )
        if image is None or not found:
            return None
        with collector_alone(layout.root):
            users = dict(mark.leased(layout))
            if key in users:
                return Drop(None, path, found, why_not=f"run {users[key]} is using it")
            images.drop_marker(image)
            reach("repair.after-image")
            sync_file_system(layout.root)
            trash.throw(layout, str(path))
            return Drop(None, path, found)
    finally:
        lock.release()


def _drop_blob(problem: Problem) -> Drop | None:
    if blob_problem(str(problem.path), problem.path.name, Hashes()) is None:
        return None  # gone with its output, or somebody has just put a good file there
    trash.unlink(str(problem.path))
    return Drop(None, problem.path, (problem,))


def _path(store: Store, key: Key) -> Path:
    record = records.read_record(store.layout, key)
    return Path(store.layout.record(key)) if record is None else store.path(key, record.name)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
