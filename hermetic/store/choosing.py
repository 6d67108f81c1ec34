"""Which paths a collection removes: pure judgement over what is recorded; nothing is changed here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from hermetic.digest import Key
from hermetic.store import images, mark, price, records
from hermetic.store.layout import Layout
from hermetic.store.leftovers import foreign
from hermetic.store.realisation import Realisation
from hermetic.store.usage import Contents

__all__ = ["Choice", "Listing", "choose"]


class Listing:
    """All that is recorded, with what is dear to compute computed once: paths, and names in ``store/``.

    Unpacked images are listed as if each were the output of its key.
    """

    def __init__(self, layout: Layout) -> None:
        self.records, self.damaged = records.read_all(layout)
        outputs = len(self.records)
        self.paths = {record.key.hex: layout.output(record.key, record.name) for record in self.records}
        prefix = len(layout.folder("store")) + 1
        self.by_name = {self.paths[record.key.hex][prefix : prefix + 32]: record for record in self.records}
        self.images = {image.key.hex: image for image in images.every(layout.root)}
        self.records += [image.as_record() for image in self.images.values()]
        for record in self.records[outputs:]:
            self.paths[record.key.hex] = self.images[record.key.hex].folder
            self.by_name[record.key.base32] = record
        self.by_key = {record.key.hex: record for record in self.records}


@dataclass(frozen=True, slots=True)
class Choice:
    """`victims` in the order in which they go, and who stays; by hexadecimal key why, and the bytes each frees."""

    victims: list[Realisation]
    survivors: list[Realisation]
    reasons: dict[str, str]
    freed: dict[str, int]
    short: int


def choose(
    layout: Layout, listing: Listing, max_size: int | None, min_free: int | None, before: float | None, *, spare: int
) -> Choice:
    """Choose. `spare` are bytes that will be freed anyway; the rest is as in `Wishes`. Linear in the number of paths.

    Raises `HermeticError` (store/unreadable-root, store/unreadable-lease).
    """
    reasons = _reasons(layout, listing, before)
    dead = [record for record in listing.records if record.key.hex not in reasons]
    account = _Account(layout, listing)
    needed = _needed(layout, account.total, max_size, min_free, spare)
    if needed is not None:
        seconds = price.seconds_to_regain(layout, dead)
        alive = [record for record in listing.records if record.key.hex in reasons]
        dead = account.enough(price.cheapest_first(dead, seconds, account.contents, alive), needed)
    freed = account.remove(dead)
    why = "nothing keeps it alive" if needed is None else "nothing keeps it alive, and its space is needed"
    reasons |= dict.fromkeys(freed, why)
    survivors = [record for record in listing.records if record.key.hex not in freed]
    for record in survivors:
        reasons.setdefault(record.key.hex, "nothing keeps it alive, but its space is not needed")
    short = max(0, (needed or 0) - sum(freed.values()))
    return Choice(dead, survivors, reasons, freed, short)


def _reasons(layout: Layout, listing: Listing, before: float | None) -> dict[str, str]:
    """Why a path must stay, by hexadecimal key, for those that must."""
    held = mark.held(layout)
    reasons = {record.key.hex: held[name] for name, record in listing.by_name.items() if name in held}
    for record in listing.records:
        if record.key.hex not in reasons and (why := _spared(layout, listing, record, before)):
            reasons[record.key.hex] = why
    needed = mark.closure(reasons, listing.by_key)
    reasons |= {key: f"needed by {listing.by_key[why].name}" for key, why in needed.items()}
    return reasons | _images_needed(layout, listing, reasons)


def _images_needed(layout: Layout, listing: Listing, alive: dict[str, str]) -> dict[str, str]:
    """Whoever builds what is alive once more, or looks into it with ``hermetic shell``, needs its image."""
    wanted = {image.digest.encode(): key for key, image in listing.images.items() if key not in alive}
    found: dict[str, str] = {}
    for key in alive if wanted else ():
        if key not in listing.images:
            preimage = records.preimage_bytes(layout, Key(key))
            found |= {
                wanted[each]: f"what {listing.by_key[key].name} was made in" for each in wanted if each in preimage
            }
    return found


def _spared(layout: Layout, listing: Listing, record: Realisation, before: float | None) -> str:
    if before is not None and (made := _made(layout, listing, record.key)) >= before:
        return f"realised {time.strftime('%Y-%m-%d', time.localtime(made))}, which is not long ago"
    if os.geteuid() != 0 and (owner := foreign(listing.paths[record.key.hex])) is not None:
        return f"belongs to user {owner}, so only root can remove it"
    return ""


def _made(layout: Layout, listing: Listing, key: Key) -> float:
    image = listing.images.get(key.hex)
    return os.stat(layout.record(key) if image is None else image.marker).st_mtime


def _needed(layout: Layout, total: int, max_size: int | None, min_free: int | None, spare: int) -> int | None:
    """How many bytes must go; None when nobody asked for so many."""
    asked = []
    if max_size is not None:
        asked.append(total - max_size)
    if min_free is not None:
        status = os.statvfs(layout.root)
        asked.append(min_free - status.f_bavail * status.f_frsize - spare)
    return max(asked, default=None)


class _Account:
    """How often each blob is used, and so what goes with an output."""

    def __init__(self, layout: Layout, listing: Listing) -> None:
        alone = {
            record.tree: {record.key.hex: record.size} for record in map(listing.by_key.get, listing.images) if record
        }
        self.contents = Contents(layout, alone)
        self._users: dict[str, int] = {}
        self.total = 0
        for record in listing.records:
            for blob, size in self.contents.of(record.tree).items():
                before = self._users.get(blob, 0)
                self._users[blob] = before + 1
                self.total += 0 if before else size

    def remove(self, victims: list[Realisation]) -> dict[str, int]:
        """Take them off the account, in their order; the bytes that went with each, by hexadecimal key."""
        return {record.key.hex: self._take(record) for record in victims}

    def _take(self, record: Realisation) -> int:
        freed = 0
        for blob, size in self.contents.of(record.tree).items():
            self._users[blob] -= 1
            freed += 0 if self._users[blob] else size
        return freed

    def _give_back(self, record: Realisation) -> None:
        for blob in self.contents.of(record.tree):
            self._users[blob] += 1

    def _cost_of_keeping(self, record: Realisation) -> int:
        return sum(size for blob, size in self.contents.of(record.tree).items() if not self._users[blob])

    def enough(self, ordered: list[Realisation], needed: int) -> list[Realisation]:
        """Of these the ones whose going frees `needed` bytes, as few as their order allows. The account is unchanged.

        What went only before others that share its bytes made it worth nothing is kept after all, the dearest first.
        """
        taken: list[Realisation] = []
        freed = 0
        for record in ordered:
            if freed >= needed:
                break
            freed += self._take(record)
            taken.append(record)
        chosen: list[Realisation] = []
        gone = {record.key for record in taken}
        for record in reversed(taken):
            back = self._cost_of_keeping(record)
            # One whose reference goes cannot stay; what refers to it went before it, so that is judged later.
            if freed - back >= needed and not any(key in gone for key in record.references):
                freed -= back
                gone.discard(record.key)
                self._give_back(record)
            else:
                chosen.append(record)
        for record in chosen:
            self._give_back(record)
        return chosen[::-1]
