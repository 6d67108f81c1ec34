"""The store as the rest of hermetic sees it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermetic.digest import Key, ResolvedKey, TreeDigest
from hermetic.errors import Domain, HermeticError
from hermetic.store import layout as layouts
from hermetic.store import manifest as manifests
from hermetic.store import records
from hermetic.store.faults import storing
from hermetic.store.layout import Layout
from hermetic.store.locks import KeyLock, hold
from hermetic.store.pending import Pending
from hermetic.store.realisation import Realisation
from hermetic.store.walk import Limits

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store.attempts import Attempt
    from hermetic.store.collecting import Collection, Wishes
    from hermetic.store.images import Unpacked
    from hermetic.store.manifest import Manifest
    from hermetic.store.repair import Drop
    from hermetic.store.roots import Root
    from hermetic.store.run import Run
    from hermetic.store.switching import Profile
    from hermetic.store.usage import Ledger
    from hermetic.store.verify import Problem

__all__ = ["Store"]

_BASE32 = re.compile(r"([a-z2-7]{1,32})(?:-.*)?")
_HEX = re.compile(r"[0-9a-f]{1,64}")


class Store:
    """One store. There is no daemon and no database: the file system is the truth.

    Every method may be called from any thread; any number of processes may use one store at once.
    """

    def __init__(self, root: str, *, boot_id: str, limits: Limits) -> None:
        self.root = Path(root)
        self.layout = Layout(root)
        self.limits = limits
        self.pending = Pending(self.layout, boot_id)
        self._believed: dict[Key, str] = {}  # outputs of another boot's runs that were looked at: key -> run

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        create: bool = True,
        boot_id: str | None = None,
        limits: Limits | None = None,
    ) -> Store:
        """The store at `root`; with `create`, make one where there is nothing or an empty folder.

        Reads one small file and scans nothing. Raises `HermeticError` in the domain environment: store-too-new,
        not-a-store, store-on-nfs, store-read-only, store-full, store-unreadable, and store-missing without `create`.
        """
        place = os.path.abspath(root)
        if not layouts.is_store(place):
            if not create:
                raise HermeticError(
                    Domain.ENVIRONMENT,
                    "store-missing",
                    f"there is no store at {place}",
                    hint="`hermetic realise` makes one; or name another with --store or HERMETIC_STORE",
                )
            layouts.create(place)
        return cls(place, boot_id=boot_id or layouts.current_boot(), limits=limits or Limits())

    def path(self, key: Key, name: str) -> Path:
        """Where the output of `key` lies once it is realised. Raises `HermeticError` (recipe/bad-name)."""
        return Path(self.layout.output(key, name))

    def realisation(self, key: Key) -> Realisation | None:
        """What `key` became, if its output is in place and can be believed."""
        record = records.read_record(self.layout, key)
        if record is None or not os.path.isdir(self.layout.output(key, record.name)):
            return None
        return record if self._is_sure(record) else None

    def records(self) -> Iterator[Realisation]:
        """Everything that is realised, by key, as `realisation` gives it."""
        return (record for key in records.keys(self.layout) if (record := self.realisation(key)) is not None)

    def _is_sure(self, record: Realisation) -> bool:
        if record.run not in self.pending.of_other_boots():
            return True
        if self._believed.get(record.key) != record.run:
            from hermetic.store import recovery  # noqa: PLC0415  # hardly ever

            if not recovery.is_whole(self.layout, record):
                return False
            self._believed[record.key] = record.run
        return True

    def resolved(self, key: ResolvedKey) -> list[Key]:
        """Realised keys that became `key` once their inputs were replaced by what these became, sorted."""
        try:
            names = sorted(os.listdir(self.layout.resolved(key)))
        except FileNotFoundError:
            return []
        # What a killed run left may name a key that was realised since, from inputs that turned out otherwise.
        found = ((name, self.realisation(name)) for name in map(Key, names))
        return [name for name, record in found if record is not None and record.resolved == key]

    def find(self, prefix_or_path: str) -> Realisation:
        """The realisation that a user names by a store path (or something in it, or a link to it), or by the
        beginning of a key in hexadecimal or base-32.

        Raises `HermeticError`: usage/unknown-path, usage/ambiguous-path.
        """
        named = self._store_name(prefix_or_path) if "/" in prefix_or_path else prefix_or_path
        found = {
            key: record
            for key in self._matching(named)
            if (record := self.realisation(key)) is not None and ("-" not in named or _called(record, named))
        }
        if not found and os.path.lexists(prefix_or_path) and named == prefix_or_path:
            return self.find(f"./{prefix_or_path}")  # a link in this folder, such as result
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            choices = ", ".join(sorted(f"{key.base32}-{record.name}" for key, record in found.items())[:5])
            raise HermeticError(
                Domain.USAGE,
                "ambiguous-path",
                f"{prefix_or_path!r} begins {len(found)} keys: {choices}",
                hint="give more of the key, or the store path",
            )
        raise self._unknown(prefix_or_path)

    def _unknown(self, name: str) -> HermeticError:
        return HermeticError(
            Domain.USAGE,
            "unknown-path",
            f"nothing realised in {self.root} is called {name!r}",
            hint="give a store path, a link to one, or the beginning of a key",
        )

    def _store_name(self, path: str) -> str:
        """The name in ``store/`` that `path` lies in or leads to; without one, what matches nothing."""
        outputs = os.path.realpath(self.layout.folder("store"))
        relative = os.path.relpath(os.path.realpath(path), outputs)
        return "" if relative.startswith("..") else relative.split("/")[0]

    def _matching(self, text: str) -> Iterator[Key]:
        hexadecimal = _HEX.fullmatch(text) is not None
        base32 = match[1] if (match := _BASE32.fullmatch(text)) else None
        for key in records.keys(self.layout):
            if (hexadecimal and key.hex.startswith(text)) or (base32 and key.base32.startswith(base32)):
                yield key

    def preimage(self, key: Key) -> dict[str, Value] | None:
        """The derivation whose digest `key` is, as it was when it was realised."""
        try:
            with open(self.layout.preimage(key), "rb") as file:
                value = json.loads(file.read())
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def preimages(self) -> Iterator[tuple[Key, dict[str, Value]]]:
        """Every derivation that was ever realised here, the newest first, whether or not its output is still there."""
        for key in records.newest_first(self.layout):
            preimage = self.preimage(key)
            if preimage is not None:
                yield key, preimage

    def lock(self, key: Key) -> KeyLock:
        """The lock that who realises `key` holds; not yet taken."""
        return KeyLock(str(self.root), key.hex)

    def begin(self) -> Run:
        """Start a session that may build. Sweeps up after dead ones, and looks at what another boot left unsure.

        Raises `HermeticError` (environment/store-read-only, environment/store-full).
        """
        from hermetic.store.run import Run  # noqa: PLC0415  # reading needs none of it

        self._tidy()
        return Run(self)

    def _tidy(self) -> None:
        from hermetic.store.sweep import sweep  # noqa: PLC0415

        with storing(str(self.root)):
            sweep(self.layout)
            if self.pending.of_other_boots():
                self._recover()

    def _recover(self) -> None:
        from hermetic.store.recovery import recover  # noqa: PLC0415

        descriptor = hold(f"{self.root}/locks/recovery")
        try:
            recover(self.layout, self.pending)
        finally:
            os.close(descriptor)

    def kept(self) -> list[Path]:
        """Workspaces that were closed with ``keep``, of whatever run."""
        from hermetic.store import sweep  # noqa: PLC0415

        return [Path(path) for path in sweep.kept(self.layout)]

    @contextmanager
    def use_kept(self, workspace: Path) -> Iterator[None]:
        """While this is entered the collector leaves a kept workspace alone."""
        descriptor = hold(f"{workspace}.kept")
        try:
            yield
        finally:
            os.close(descriptor)

    def discard(self, workspace: Path) -> None:
        """Remove a kept workspace."""
        from hermetic.store import sweep  # noqa: PLC0415

        sweep.discard(str(workspace))

    def roots(self) -> list[Root]:
        """Every recorded root, by link."""
        from hermetic.store import roots  # noqa: PLC0415

        return roots.read_all(self.layout)

    def add_root(self, link: str | os.PathLike[str], key: Key) -> None:
        """Make `link` a symlink to the output of `key`, in one step, and keep that output alive while it stands.

        Raises `HermeticError`: usage/out-link-exists when something that is no link into a store is there,
        usage/out-link-refused when the link cannot be made, usage/unknown-path when `key` is not realised.
        """
        from hermetic.store import roots  # noqa: PLC0415

        if (record := self.realisation(key)) is None:
            raise self._unknown(key.hex)
        roots.add(self.layout, os.fspath(link), key, self.layout.output(key, record.name))

    def remove_root(self, link: str | os.PathLike[str]) -> bool:
        """Take back the root at `link`, and the link itself if it leads into a store; say whether there was a root."""
        from hermetic.store import roots  # noqa: PLC0415

        return roots.remove(self.layout, os.fspath(link))

    def collect(self, wishes: Wishes) -> Collection:
        """Remove what no root, profile or running build needs; see `Wishes` for how much of it.

        Raises `HermeticError`: store/unreadable-root and store/unreadable-lease, before anything is touched;
        environment/not-the-owner; environment/store-read-only.
        """
        from hermetic.store.collecting import collect  # noqa: PLC0415  # only who collects pays for it

        if not wishes.dry_run:
            self._tidy()
        return collect(self, wishes)

    def profile(self, name: str) -> Profile:
        """The history of links called `name`, whether or not it has begun. Raises (usage/bad-profile-name)."""
        from hermetic.store.switching import Profile  # noqa: PLC0415

        return Profile(self, name)

    def profiles(self) -> list[Profile]:
        """Every profile that has a history, by name."""
        from hermetic.store import profiles  # noqa: PLC0415

        return [self.profile(name) for name in profiles.names(self.layout)]

    def ledger(self) -> Ledger:
        """Who has which bytes, of everything that is realised now."""
        from hermetic.store.usage import Ledger  # noqa: PLC0415

        return Ledger(self.layout, self.records())

    def images(self) -> list[Unpacked]:
        """The container images that are unpacked here."""
        from hermetic.store import images  # noqa: PLC0415

        return images.every(str(self.root))

    def manifest(self, tree: TreeDigest) -> Manifest:
        """Everything in a tree. Raises `HermeticError` (store/unknown-tree, store/corrupt)."""
        return manifests.read(self.layout, tree)

    def verify(
        self, keys: Iterable[Key] | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> list[Problem]:
        """Read every realised output again (or those of `keys`), all records and, without `keys`, all images and blobs.

        Gives what is wrong; raises nothing for it and mends nothing. `progress` is told bytes done and bytes in all.
        """
        from hermetic.store.verify import verify  # noqa: PLC0415

        return verify(self.layout, keys, progress)

    def repair(
        self, keys: Iterable[Key] | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> list[Drop]:
        """Verify as `verify` does, and drop what is damaged so that the next realise makes it again.

        Raises `HermeticError`: environment/not-the-owner, store/unreadable-lease, environment/store-read-only.
        """
        from hermetic.store.repair import repair  # noqa: PLC0415

        self._tidy()
        return repair(self, keys, progress)

    def start_attempt(self, key: Key, name: str, **extra: Any) -> Attempt:
        """Record that a build of `key` begins, and make the file for its log."""
        from hermetic.store import attempts  # noqa: PLC0415

        return attempts.start(self.layout, self.pending.boot, key, name, extra)

    def attempts(self, key: Key) -> list[Attempt]:
        """The attempts at `key`, the newest first."""
        from hermetic.store import attempts  # noqa: PLC0415

        return attempts.newest_first(self.layout, key)

    def attempts_like(self, prefix: str) -> list[Attempt]:
        """The attempts at every key that begins with `prefix` (base-32), realised or not."""
        from hermetic.store import attempts  # noqa: PLC0415

        return attempts.like(self.layout, prefix)

    def durations(self) -> dict[str, float]:
        """Seconds that the last successful attempt at each name took: the best guess for the next one."""
        from hermetic.store import attempts  # noqa: PLC0415

        return attempts.durations(self.layout)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"


def _called(record: Realisation, name: str) -> bool:
    return f"{record.key.base32}-{record.name}" == name
