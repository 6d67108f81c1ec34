"""One driver of the torture: ``driver.py PLACE SEED ACTION...`` does the actions with the store at PLACE/store."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

from store_kit import fill, key_of, resolved_of

from hermetic.digest import Key
from hermetic.errors import HermeticError
from hermetic.store import Run, Store, Wishes, import_tree

NAMES = [f"n{number}" for number in range(12)]
# What others may do to us at any time, and we to them; everything else is a finding.
EXPECTED = frozenset({
    "unknown-path", "unknown-tree", "not-realised", "unknown-profile", "unknown-generation", "corrupt",
})  # fmt: skip


def tree(name: str) -> dict[str, object]:
    """Files that some outputs share, files that none does, folders, and names that hold the same bytes twice."""
    number = int(name[1:])
    return {
        "common": b"c" * 5000,
        "third": b"%d" % (number % 3) * 3000,
        "own": name.encode() * 400,
        "again": name.encode() * 400,
        "sub": {"deeper": {"own": b"deep " + name.encode()}},
    }


class Driver:
    def __init__(self, place: Path, seed: str) -> None:
        self.random = random.Random(seed)
        self.place = place
        self.store = Store.open(place / "store")

    def name(self) -> str:
        return self.random.choice(NAMES)

    def link(self) -> Path:
        return self.place / "links" / f"l{self.random.randrange(5)}"

    def build(self) -> None:
        """As the scheduler does: lease, look, lock, look again, adopt an equal one or build, perhaps root."""
        name, other = self.name(), self.name()
        with self.store.begin() as run:
            run.lease([key_of(name), key_of(other)])
            self.ensure(run, other, [])
            self.ensure(run, name, [key_of(other)] if other < name else [])
            record = self.store.realisation(key_of(name))
            assert record is not None, f"{name} was leased and realised, but is gone"
            assert (record.path(self.store) / "own").read_bytes() == name.encode() * 400
            if self.random.random() < 0.5:
                self.store.add_root(self.link(), key_of(name))

    def ensure(self, run: Run, name: str, references: list[Key]) -> None:
        key = key_of(name)
        with self.store.lock(key):
            if self.store.realisation(key) is None:
                with run.workspace() as place:
                    out = fill(place.path / "out", tree(name))
                    run.ingest(
                        out, key=key, name=name, preimage={"n": name}, resolved=resolved_of(name), references=references
                    )

    def adopt(self) -> None:
        name = self.name()
        key = key_of(f"twin of {name}")
        with self.store.begin() as run:
            run.lease([key])
            for equal in self.store.resolved(resolved_of(name)):
                run.lease([equal])
                record = self.store.realisation(equal)
                if record is not None:
                    run.lease(record.references)
                    with self.store.lock(key):
                        run.adopt(record, key=key, name=f"twin-{name}", preimage={"t": name}, resolved=None)

    def root(self) -> None:
        self.store.add_root(self.link(), key_of(self.name()))

    def unroot(self) -> None:
        self.store.remove_root(self.link())

    def link_profile(self) -> None:
        profile = f"p{self.random.randrange(3)}"
        self.store.profile(profile).switch(key_of(self.name()), self.place / "links", cause="torture")

    def rollback(self) -> None:
        self.store.profile(f"p{self.random.randrange(3)}").rollback()

    def prune(self) -> None:
        self.store.profile(f"p{self.random.randrange(3)}").prune(self.random.randrange(3))

    def gc(self) -> None:
        self.store.collect(Wishes())

    def gc_room(self) -> None:
        self.store.collect(Wishes(max_size=self.random.randrange(60_000)))

    def verify(self) -> None:
        problems = [p for p in self.store.verify() if p.path.exists() and self.still_there(p.key)]
        assert not problems, problems

    def still_there(self, key: Key | None) -> bool:
        """Verification looks at paths that others collect meanwhile; what is still realised it must find whole."""
        return key is not None and self.store.realisation(key) is not None and bool(self.store.verify([key]))

    def repair(self) -> None:
        dropped = [drop for drop in self.store.repair() if drop.problems and not drop.why_not]
        assert not dropped, dropped

    def import_(self) -> None:
        name = self.name()
        with self.store.begin() as run, run.workspace() as place:
            import_tree(run, fill(place.path / "engine", tree(name)), f"imported-{name}")

    def does(self, action: str) -> None:
        actions: dict[str, Callable[[], None]] = {
            "build": self.build, "adopt": self.adopt, "root": self.root, "unroot": self.unroot,
            "link": self.link_profile, "rollback": self.rollback, "prune": self.prune, "gc": self.gc,
            "gc-room": self.gc_room, "verify": self.verify, "repair": self.repair, "import": self.import_,
        }  # fmt: skip
        try:
            actions[action]()
        except HermeticError as error:
            if error.reason not in EXPECTED:
                raise


if __name__ == "__main__":
    driver = Driver(Path(sys.argv[1]), sys.argv[2])
    for action in sys.argv[3:]:
        driver.does(action)
