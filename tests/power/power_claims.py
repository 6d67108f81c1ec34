"""What drivers said was on the disk, from their marks: what holds after a power loss at any place of the log.

A mark is a JSON object with `do`: ``begin`` and ``end`` of an action (`id`, `action`, and at the end `paths` and
`links`), ``touch`` (`id`, `profile`: from here on its link may move), ``dead`` (`pid`: its actions will not end; an id
begins with its process' number) and ``point``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

COLLECTORS = frozenset({"gc", "gc-room"})


@dataclass(frozen=True)
class Promise:
    """An output that is on the disk."""

    key: str
    name: str
    tree: str


@dataclass(frozen=True)
class Shown:
    """A profile's link, and the output that it shows; both on the disk. Paths are relative to the file system."""

    profile: str
    link: str
    target: str
    promise: Promise


@dataclass
class Claims:
    """What is promised now. Fed with marks in their order."""

    paths: dict[str, Promise] = field(default_factory=dict)
    links: dict[str, Shown] = field(default_factory=dict)
    _begun: dict[str, int] = field(default_factory=dict)
    _collecting: set[str] = field(default_factory=set)
    _touching: dict[str, str] = field(default_factory=dict)
    _collected: int = -1
    _touched: dict[str, int] = field(default_factory=dict)
    _now: int = 0

    def hear(self, mark: dict[str, Any]) -> None:
        self._now += 1
        match mark["do"]:
            case "begin":
                self._begin(mark["id"], mark["action"])
            case "touch":
                self._touching[mark["id"]] = mark["profile"]
                self._touched[mark["profile"]] = self._now
                self.links.pop(mark["profile"], None)
            case "end":
                self._end(mark["id"], mark["paths"], mark["links"])
            case "dead":
                for name in [name for name in self._begun if name.startswith(f"{mark['pid']}-")]:
                    self._forget(name)

    def after_the_crash(self) -> Claims:
        """What the next boot starts with."""
        return Claims(dict(self.paths), dict(self.links))

    def _begin(self, name: str, action: str) -> None:
        self._begun[name] = self._now
        if action in COLLECTORS:
            self.paths.clear()
            self._collecting.add(name)
            self._collected = self._now

    def _end(self, name: str, paths: Iterable[dict[str, str]], links: Iterable[dict[str, Any]]) -> None:
        begun = self._begun[name]
        collecting = name in self._collecting
        self._forget(name)
        # Whoever collects while this works, or between its end and its mark, may take what nothing keeps alive.
        if not self._collecting and (self._collected < begun or collecting):
            self.paths |= {path["key"]: Promise(**path) for path in paths}
        for link in links:
            profile = link["profile"]
            others = profile in self._touching.values()
            if not others and self._touched[profile] >= begun:
                self.links[profile] = Shown(**{**link, "promise": Promise(**link["promise"])})

    def _forget(self, name: str) -> None:
        self._begun.pop(name, None)
        self._collecting.discard(name)
        self._touching.pop(name, None)
