"""Which paths a collection removes: pure judgement over what is recorded; nothing is changed here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from hermetic.digest import Key
from hermetic.store import mark, price, records
from hermetic.store.layout import Layout
from hermetic.store.realisation import Realisation
from hermetic.store.usage import Contents

__all__ = ["Choice", "choose"]


@dataclass(frozen=True, slots=True)
class Choice:
    """`victims` in the order in which they go, and who stays; by base-32 key why, and the bytes each frees.

    `damaged` are keys whose records cannot be read; they are left to `verify --repair`.
    """

    victims: list[Realisation]
    survivors: list[Realisation]
    reasons: dict[str, str]
    freed: dict[str, int]
    short: int
    damaged: list[Key]


def choose(
    layout: Layout, max_size: int | None, min_free: int | None, before: float | None, *, spare: int = 0
) -> Choice:
    """Choose. `spare` are bytes that will be freed anyway; the rest is as in `Wishes`. Linear in the number of paths.

    Raises `HermeticError` (store/unreadable-root, store/unreadable-lease).
    """
    everything, damaged = records.read_all(layout)
    reasons = _reasons(layout, everything, before)
    dead = [record for record in everything if record.key.base32 not in reasons]
    account = _Account(layout, everything)
    needed = _needed(layout, account.total, max_size, min_free, spare)
    if needed is not None:
        seconds = price.seconds_to_regain(layout, dead)
        alive = [record for record in everything if record.key.base32 in reasons]
        dead = account.enough(price.cheapest_first(dead, seconds, account.contents, alive), needed)
    freed = account.remove(dead)
    why = "nothing keeps it alive" if needed is None else "nothing keeps it alive, and its space is needed"
    reasons |= dict.fromkeys(freed, why)
    survivors = [record for record in everything if record.key.base32 not in freed]
    for record in survivors:
        reasons.setdefault(record.key.base32, "nothing keeps it alive, but its space is not needed")
    short = max(0, (needed or 0) - sum(freed.values()))
    return Choice(dead, survivors, reasons, freed, short, damaged)


def _reasons(layout: Layout, everything: list[Realisation], before: float | None) -> dict[str, str]:
    """Why a path must stay, by base-32 key, for those that must."""
    by_name = {record.key.base32: record for record in everything}
    reasons = {name: why for name, why in mark.held(layout).items() if name in by_name}
    if before is not None:
        for name in by_name.keys() - reasons.keys():
            if (made := _made(layout, by_name[name].key)) >= before:
                reasons[name] = f"realised {time.strftime('%Y-%m-%d', time.localtime(made))}, which is not long ago"
    needed = mark.closure(reasons, by_name)
    return reasons | {name: f"needed by {by_name[why].name}" for name, why in needed.items() if name in by_name}


def _made(layout: Layout, key: Key) -> float:
    return os.stat(layout.record(key)).st_mtime


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

    def __init__(self, layout: Layout, everything: list[Realisation]) -> None:
        self.contents = Contents(layout)
        self._users: dict[str, int] = {}
        self.total = 0
        for record in everything:
            for blob, size in self.contents.of(record.tree).items():
                before = self._users.get(blob, 0)
                self._users[blob] = before + 1
                self.total += 0 if before else size

    def remove(self, victims: list[Realisation]) -> dict[str, int]:
        """Take them off the account, in their order; the bytes that went with each, by base-32 key."""
        return {record.key.base32: self._take(record) for record in victims}

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
