"""Switching a profile: record the new generation, then move the link, so that nothing shown can be collected."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hermetic.digest import Key, hash_bytes
from hermetic.errors import Domain, HermeticError
from hermetic.store import profiles, roots
from hermetic.store.faults import storing
from hermetic.store.layout import write_atomic
from hermetic.store.locks import KeyLock, collector_locked_out
from hermetic.store.pending import sync_file_system
from hermetic.store.profiles import Generation
from hermetic.store.syncpoint import reach

if TYPE_CHECKING:
    from hermetic.store.store import Store

__all__ = ["Profile"]

_NAME = re.compile(r"[A-Za-z0-9_+=?][A-Za-z0-9._+=?-]{0,210}")
_NIX = re.compile(r"/nix/store/[0-9a-z]{32}-[^/]+/?")


class Profile:
    """One profile of a store. Made by `Store.profile`; any number of processes may use it at once."""

    def __init__(self, store: Store, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise HermeticError(
                Domain.USAGE,
                "bad-profile-name",
                f"{name!r} cannot be the name of a profile",
                hint="use letters, digits and any of . _ + = ? -, and no dot or dash first",
            )
        self.name = name
        self._store = store
        self._layout = store.layout
        self._lock = KeyLock(str(store.root), f"profile-{hash_bytes(name.encode()).hex}")

    def history(self) -> list[Generation]:
        """Every generation, the oldest first. Raises `HermeticError` (store/unreadable-root)."""
        return profiles.read(self._layout, self.name)

    def current(self) -> Generation | None:
        """The generation that the link shows; None when it shows none."""
        return profiles.current(self._layout, self.history())

    def switch(self, target: Key | str, folder: str | os.PathLike[str], *, cause: str) -> Generation:
        """Let the link `folder`/NAME show the output of the key `target`, or the outside folder `target`.

        The link moves in one step, and every generation stays a root until it is pruned. On the disk when this
        returns. Showing what is shown already changes nothing. A link that something else made to a store's path is
        taken over, as a generation of its own.

        Raises `HermeticError`: usage/not-realised, usage/no-folder, usage/link-exists when something else is there,
        usage/link-elsewhere when the profile's link lies in another folder, usage/link-refused.
        """
        link = self._place(folder)
        with self._lock:
            history = self.history()
            if history and history[-1].link != link:
                raise self._elsewhere(history[-1].link)
            history += self._take_over(link, history)
            return self._show(target, link, history, cause)

    def rollback(self, to: int | None = None, *, cause: str = "") -> Generation:
        """Show again what generation `to` showed, or the one before the current; a new generation that says so.

        What it goes back to is read again first, all of it: a path that was collected or damaged is refused, and the
        link stays. Raises `HermeticError`: usage/unknown-profile, usage/unknown-generation, store/not-realised,
        store/corrupt.
        """
        with self._lock:
            history = self._known()
            wanted = self._wanted(history, to)
            self._check_whole(wanted)
            cause = cause or f"rollback to {wanted.number}"
            return self._show(wanted.target, wanted.link, history, cause, restores=wanted.position)

    def prune(self, keep: int) -> list[Generation]:
        """Forget all generations but the newest `keep` and the current one; gives those that are forgotten."""
        with self._lock:
            history = self._known()
            shown = profiles.current(self._layout, history)
            gone = [generation for generation in history[: max(0, len(history) - keep)] if generation != shown]
            with storing(self._layout.root):
                for generation in gone:
                    os.unlink(self._file(generation.number))
                    reach("profile.after-prune")
            with suppress(OSError):  # some generations are left
                os.rmdir(self._folder)
            return gone

    @property
    def _folder(self) -> str:
        return f"{self._layout.folder('profiles')}/{self.name}"

    def _file(self, number: int) -> str:
        return f"{self._folder}/{number}"

    def _known(self) -> list[Generation]:
        if not (history := self.history()):
            names = ", ".join(profiles.names(self._layout)) or "none"
            message = f"{self._store.root} has no profile {self.name!r}; there are: {names}"
            raise HermeticError(
                Domain.USAGE, "unknown-profile", message, hint=f"hermetic link {self.name} PATH makes it"
            )
        return history

    def _wanted(self, history: list[Generation], to: int | None) -> Generation:
        if to is not None:
            wanted = next((generation for generation in history if generation.number == to), None)
        else:
            shown = profiles.current(self._layout, history) or history[-1]
            # Rollbacks are passed over, or a second one would come back to what the first one left.
            earlier = [g for g in history if g.number < shown.position and not g.restores and g.target != shown.target]
            wanted = earlier[-1] if earlier else None
        if wanted is None:
            what = f"no generation {to}" if to is not None else "nothing to go back to"
            numbers = ", ".join(str(generation.number) for generation in history)
            message = f"profile {self.name!r} has {what}; its generations are {numbers}"
            raise HermeticError(
                Domain.USAGE, "unknown-generation", message, hint=f"hermetic profile history {self.name}"
            )
        return wanted

    def _check_whole(self, wanted: Generation) -> None:
        path = wanted.path(self._layout)
        if not isinstance(wanted.target, Key):
            if not os.path.isdir(path):
                raise _refused("not-realised", f"generation {wanted.number}, {path}, is not there any more")
        elif self._store.realisation(wanted.target) is None:
            raise _refused("not-realised", f"generation {wanted.number}, {path}, is not realised any more")
        elif problems := self._store.verify([wanted.target]):
            raise _refused("corrupt", f"generation {wanted.number}: {problems[0].path} {problems[0].what}")

    def _place(self, folder: str | os.PathLike[str]) -> str:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise self._not_linked(os.fspath(folder), error) from error
        return roots.placed(os.path.join(folder, self.name))

    def _take_over(self, link: str, history: list[Generation]) -> list[Generation]:
        """What is at `link` as a generation of its own, unless nothing or one of ours is."""
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            return []
        except OSError:
            target = ""
        if any(generation.is_shown(self._layout) for generation in history):
            return []
        place = os.path.normpath(os.path.join(os.path.dirname(link), target))
        if not target or not (roots.into_a_store(place) or _NIX.fullmatch(target)):
            raise HermeticError(
                Domain.USAGE,
                "link-exists",
                f"{link} exists and is not a link into a store",
                hint="move it away, or choose another folder with --to",
            )
        return [self._write(_key_of(self._store, place) or target, link, history, "found in place")]

    def _show(
        self, target: Key | str, link: str, history: list[Generation], cause: str, *, restores: int = 0
    ) -> Generation:
        shown = profiles.current(self._layout, history)
        if shown is not None and shown.target == target:
            return shown
        with collector_locked_out(self._layout.root):
            self._check_there(target)
            new = next(iter(history[-1:]), None)
            # A switch that was killed before it moved the link is finished, not repeated.
            if new is None or new.target != target or new.position != (restores or new.number):
                new = self._write(target, link, history, cause, restores)
            reach("link.after-generation")
            try:
                roots.switch(link, new.path(self._layout))
                _sync_folder(os.path.dirname(link))
            except OSError as error:
                raise self._not_linked(link, error) from error
            reach("link.after-link")
        return new

    def _check_there(self, target: Key | str) -> None:
        if isinstance(target, Key):
            if (record := self._store.realisation(target)) is None:
                raise HermeticError(
                    Domain.USAGE, "not-realised", f"{target.base32} is not realised", hint="`hermetic realise` makes it"
                )
            if record.run in self._store.pending.of_this_boot():  # or a power loss could leave a link to nothing
                sync_file_system(self._layout.root)
        elif not os.path.isdir(target):
            raise HermeticError(Domain.USAGE, "no-folder", f"{target} is not a folder")

    def _write(
        self, target: Key | str, link: str, history: list[Generation], cause: str, restores: int = 0
    ) -> Generation:
        record = self._store.realisation(target) if isinstance(target, Key) else None
        shown = profiles.current(self._layout, history)
        new = Generation(
            number=history[-1].number + 1 if history else 1,
            link=link,
            target=target,
            name=record.name if record is not None else "",
            previous=shown.number if shown is not None else 0,
            cause=cause,
            when=int(time.time()),
            restores=restores,
        )
        with storing(self._layout.root):
            write_atomic(self._layout, self._file(new.number), profiles.encode(new), durable=True)
        return new

    def _elsewhere(self, link: str) -> HermeticError:
        return HermeticError(
            Domain.USAGE,
            "link-elsewhere",
            f"the link of profile {self.name!r} is {link}",
            hint=f"use another name, or --to {os.path.dirname(link)}",
        )

    def _not_linked(self, link: str, error: OSError) -> HermeticError:
        message = f"cannot make the link {link}: {error.strerror}"
        return HermeticError(Domain.USAGE, "link-refused", message, hint="choose another folder with --to")


def _key_of(store: Store, place: str) -> Key | None:
    """The key of a path of this very store, if it is realised."""
    if not Path(place).is_relative_to(store.root):
        return None
    try:
        return store.find(place).key
    except HermeticError:
        return None


def _refused(reason: str, what: str) -> HermeticError:
    return HermeticError(
        Domain.STORE,
        reason,
        f"{what}; the link was left as it is",
        hint="`hermetic profile history` shows the other generations; `hermetic realise` makes a path anew",
    )


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
