"""After a power loss: ``power_judge.py PLACE SEED < claims.json`` looks at the store below PLACE as the next boot does.

Before anything is repaired, what the store calls realised must be whole (P2), and what was promised must be there. Then
the next run has to finish: it recovers, builds, adopts, links, verifies, repairs and collects, and the independent
checker finds nothing wrong and nothing left over. Prints what it saw as JSON; the boot is HERMETIC_TEST_BOOT_ID.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from driver import EXPECTED, Driver
from store_checker import base32, closed, shown, tidy, tree_digest, whole

from hermetic.digest import Key
from hermetic.errors import HermeticError
from hermetic.store import Store, records, recovery

ALONE = EXPECTED - {"corrupt", "unknown-tree"}  # nobody else is there who could take anything away


class NextBoot(Driver):
    def __init__(self, place: Path, seed: str) -> None:
        super().__init__(place, seed)
        self.seen = {"records": 0, "doubted": 0, "broken": 0}

    def look(self) -> Iterator[str]:
        """What is wrong with what can be read before anybody recovers."""
        doubted = self.store.pending.of_other_boots()
        for path in self.store.root.glob("realisations/*/*"):
            self.seen["records"] += 1
            record = records.read_record(self.store.layout, Key(path.name))
            if record is None and not doubted:
                yield f"{path} cannot be read, and no marker says so"
            if record is None or record.run in doubted:
                self.seen["doubted"] += 1
                self.seen["broken"] += record is None or not recovery.is_whole(self.store.layout, record)
        for record in self.store.records():
            yield from self.damage(record.path(self.store), record.tree.hex)

    @staticmethod
    def damage(path: Path, tree: str) -> Iterator[str]:
        if tree_digest(path) != tree:
            yield f"{path} is believed, but it is not what its record says"
        yield from (line for inner in (path, *path.rglob("*")) for line in closed(inner))

    def does(self, action: str) -> None:
        getattr(self, action)()

    def go_on(self) -> Iterator[str]:
        """The next run."""
        for action in ("build", "verify", "build", "adopt", "import_", "link_profile", "rollback", "repair", "verify"):
            yield from self.tries(action)
        yield from whole(self.store.root)
        yield from shown(self.store.root)

    def finish(self) -> Iterator[str]:
        yield from self.tries("gc")
        yield from (*whole(self.store.root), *shown(self.store.root), *tidy(self.store.root))
        yield from self.tries("build")

    def tries(self, action: str) -> Iterator[str]:
        try:
            self.does(action)
        except HermeticError as error:
            if error.reason not in ALONE:
                yield f"{action}: {error.reason}: {error.message}"
        except Exception:  # noqa: BLE001  # the judge tells whatever it meets
            yield f"{action}: {traceback.format_exc()}"


def missing(
    store: Store, place: Path, claims: dict[str, list[dict[str, object]]], *, paths: bool = True
) -> Iterator[str]:
    for claim in claims["paths"] if paths else ():
        yield from _absent(store, claim)
    for link in claims["links"]:
        yield from _absent(store, link["promise"])
        name = place / str(link["link"])
        if not name.is_symlink() or os.readlink(name) != str(place / str(link["target"])):
            yield f"{name} was promised to show {link['target']}"


def _absent(store: Store, claim: dict[str, str]) -> Iterator[str]:
    path = store.root / "store" / f"{base32(claim['key'])}-{claim['name']}"
    if store.realisation(Key(claim["key"])) is None:
        yield f"{path} was promised, but is not realised"
    elif tree_digest(path) != claim["tree"]:
        yield f"{path} was promised, but holds other bytes"


def judge(place: Path, seed: str, claims: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    (place / "links").mkdir(exist_ok=True)
    try:
        boot = NextBoot(place, seed)
    except HermeticError as error:
        return {"violations": [f"the store cannot be opened: {error.reason}: {error.message}"]}
    found = [*boot.look(), *missing(boot.store, place, claims)]
    found += boot.tries("build")  # recovers first of all
    found += missing(boot.store, place, claims)
    found += boot.go_on()
    found += boot.finish()
    return {"violations": found, **boot.seen}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(judge(Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin))))
