"""A driver on a disk that may lose its power: ``power_driver.py PLACE MARKS SEED BROKEN ACTION...``.

It does what the torture's driver does, with larger files, and writes into MARKS what it begins, what has to be on the
disk when it has ended, and each sync point that it reaches. At some of these it has one file or all of them written
back, as the kernel may do at any time: that is what brings records to the disk before what they speak of. BROKEN names
a way to take the store's care away, or is "no": a store without it must be found out.
"""

from __future__ import annotations

import json
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

from driver import Driver
from store_checker import tree_digest
from store_kit import fill, key_of, resolved_of

from hermetic.digest import Key
from hermetic.store import Generation, Realisation, Run, import_tree, pending, syncpoint

PROFILES = ("p0", "p1", "p2")


def tree(name: str) -> dict[str, object]:
    """Bytes that are never zeros: some files are shared, some fit into an inode, some take many blocks."""
    number = int(name[1:])
    chance = random.Random(name)
    return {
        "common": random.Random("common").randbytes(70_000),
        "third": random.Random(number % 3).randbytes(9_000),
        "own": name.encode() * 400,
        "again": name.encode() * 400,
        "tiny": name.encode(),
        "sub": {"deeper": {"own": b"deep " + name.encode(), "weights": chance.randbytes(300_000 + number * 100_000)}},
    }


class Witness(Driver):
    def __init__(self, place: Path, marks: Path, seed: str) -> None:
        self._marks = os.open(marks, os.O_WRONLY | os.O_CLOEXEC)
        self._writeback = random.Random(f"{seed} writeback")
        self._id, self._paths, self._links = "", [], []
        syncpoint.listen(self._reached)
        super().__init__(place, seed)

    def does(self, action: str) -> None:
        self._id, self._paths, self._links = f"{os.getpid()}-{os.urandom(4).hex()}", [], []
        self.mark(do="begin", id=self._id, action=action)
        super().does(action)
        self.mark(do="end", id=self._id, paths=self._paths, links=self._links)

    def mark(self, **what: object) -> None:
        os.pwrite(self._marks, json.dumps(what).encode(), 0)

    def _reached(self, point: str) -> None:
        self.mark(do="point", name=point)
        if self._writeback.random() < 0.04:
            self._write_back()

    def _write_back(self) -> None:
        """Have one file of the store written back; which commits the journal, and not what else waits."""
        with suppress(OSError):  # others remove things meanwhile
            found = sorted(path for path in self.place.rglob("*") if path.is_file() and not path.is_symlink())
            descriptor = os.open(self._writeback.choice([self.place, *found]), os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def ensure(self, run: Run, name: str, references: list[Key]) -> None:
        with self.store.lock(key_of(name)):
            if self.store.realisation(key_of(name)) is None:
                with run.workspace() as place:
                    out = fill(place.path / "out", tree(name))
                    made = run.ingest(
                        out, key=key_of(name), name=name, preimage={"n": name}, resolved=resolved_of(name),
                        references=references,
                    )  # fmt: skip
                    self._promise(made)

    def import_(self) -> None:
        name = self.name()
        with self.store.begin() as run, run.workspace() as place:
            made = import_tree(run, fill(place.path / "engine", tree(name)), f"imported-{name}")
            if made.run == run.id:
                self._promise(made)

    def link_profile(self) -> None:
        profile, name = self._profile(), self.name()
        self._show(profile, self.store.profile(profile).switch(key_of(name), self.place / "links", cause="power"))

    def rollback(self) -> None:
        profile = self._profile()
        self._show(profile, self.store.profile(profile).rollback())

    def prune(self) -> None:
        self.store.profile(self._profile()).prune(self.random.randrange(3))

    def _profile(self) -> str:
        profile = self.random.choice(PROFILES)
        self.mark(do="touch", id=self._id, profile=profile)
        return profile

    def _promise(self, made: Realisation) -> None:
        """On the disk when this action has ended."""
        self._paths.append(self._said(made))

    def _said(self, made: Realisation) -> dict[str, str]:
        return {"key": made.key.hex, "name": made.name, "tree": tree_digest(made.path(self.store))}

    def _show(self, profile: str, shown: Generation) -> None:
        made = self.store.realisation(shown.target) if isinstance(shown.target, Key) else None
        assert made is not None
        link = os.path.relpath(shown.link, self.place)
        target = os.path.relpath(os.readlink(shown.link), self.place)
        self._links.append({"profile": profile, "link": link, "target": target, "promise": self._said(made)})


def take_care_away(broken: str) -> None:
    """What a store that forgot something would do."""
    from hermetic.store import run, switching

    match broken:
        case "end-of-run-sync":
            run.sync_file_system = lambda path: None
        case "link-sync":
            switching.sync_file_system = switching._sync_folder = lambda path: None
        case "marker":
            pending.Pending.mark = lambda self, name: None


if __name__ == "__main__":
    place, marks, seed, broken, *actions = sys.argv[1:]
    take_care_away(broken)
    witness = Witness(Path(place), Path(marks), seed)
    for action in actions:
        witness.does(action)
