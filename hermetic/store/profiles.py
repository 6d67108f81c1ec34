"""Profiles: a named, numbered history of what one symlink pointed to, such as ``~/.cache/trtllm-engines/qwen3``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hermetic.digest import Key
from hermetic.store.layout import Layout
from hermetic.store.roots import points_to, unreadable

__all__ = ["Generation", "current", "encode", "kept", "names", "read"]

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Generation:
    """One switch of a profile's link.

    `link` is the symlink. `target` is the key of a store path, of which `name` is the rest, or a path outside this
    store, which is not the store's to keep alive. `previous` is the generation it took over from (0: none), `restores`
    the one that a rollback went back to; `when` is in Unix seconds.
    """

    number: int
    link: str
    target: Key | str
    name: str
    previous: int
    cause: str
    when: int
    restores: int = 0

    @property
    def position(self) -> int:
        """The generation that first showed this: where a rollback goes back from."""
        return self.restores or self.number

    def path(self, layout: Layout) -> str:
        """What the link shows while this generation is the current one."""
        return layout.output(self.target, self.name) if isinstance(self.target, Key) else self.target

    def is_shown(self, layout: Layout) -> bool:
        """Whether the link points there now."""
        if isinstance(self.target, Key):
            return points_to(self.link, layout.folder("store"), self.target)
        try:
            return os.readlink(self.link) == self.target
        except OSError:
            return False


def names(layout: Layout) -> list[str]:
    """Every profile that has a generation."""
    folder = layout.folder("profiles")
    return [name for name in sorted(os.listdir(folder)) if _numbers(f"{folder}/{name}")]


def _numbers(folder: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder) if _NUMBER.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read(layout: Layout, name: str) -> list[Generation]:
    """The history of a profile, the oldest first; empty when there is none.

    Raises `HermeticError` (store/unreadable-root) for a generation that cannot be read.
    """
    folder = f"{layout.folder('profiles')}/{name}"
    found = (_generation(f"{folder}/{number}", number) for number in _numbers(folder))
    return [generation for generation in found if generation is not None]


def _generation(path: str, number: int) -> Generation | None:
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read())
        return _decode(document, number)
    except FileNotFoundError:  # pruned just now
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(path) from error


def _decode(document: dict[str, object], number: int) -> Generation:
    if document["version"] != 1:
        raise ValueError(f"version {document['version']!r}")
    key = document.get("key")
    return Generation(
        number=number,
        link=str(document["link"]),
        target=Key(str(key)) if key is not None else str(document["path"]),
        name=str(document["name"]),
        previous=int(str(document["previous"])),
        cause=str(document["cause"]),
        when=int(str(document["when"])),
        restores=int(str(document.get("restores", 0))),
    )


def encode(generation: Generation) -> bytes:
    """What is recorded of one; its number is the file's name."""
    target = generation.target
    document = {
        "version": 1,
        "link": generation.link,
        **({"key": target.hex} if isinstance(target, Key) else {"path": target}),
        "name": generation.name,
        "previous": generation.previous,
        "cause": generation.cause,
        "when": generation.when,
        "restores": generation.restores,
    }
    return json.dumps(document, sort_keys=True).encode("ascii")


def current(layout: Layout, history: list[Generation]) -> Generation | None:
    """The newest generation that the link shows; None when it is gone or was moved by somebody else.

    The link itself says so: a switch that was killed after its record leaves a generation that never was current.
    """
    return next((generation for generation in reversed(history) if generation.is_shown(layout)), None)


def kept(layout: Layout) -> Iterator[tuple[Key, str, int]]:
    """What every generation of every profile keeps alive: key, profile, number."""
    for name in names(layout):
        for generation in read(layout, name):
            if isinstance(generation.target, Key):
                yield generation.target, name, generation.number
