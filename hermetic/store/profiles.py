"""Profiles: a named, numbered history of what one symlink pointed to, such as ``~/.cache/trtllm-engines/qwen3``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hermetic.digest import Key
from hermetic.store.layout import Layout
from hermetic.store.roots import unreadable

__all__ = ["Generation", "kept", "names", "read"]

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Generation:
    """One switch of a profile's link.

    `target` is the key of a store path, or a path outside this store, which then is nobody's to keep alive; `previous`
    the number of the generation it took over from (0: none), `restores` that of the one a rollback went back to,
    `when` in Unix seconds.
    """

    number: int
    link: str
    target: Key | str
    previous: int
    cause: str
    when: int
    restores: int = 0


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
        previous=int(str(document["previous"])),
        cause=str(document["cause"]),
        when=int(str(document["when"])),
        restores=int(str(document.get("restores", 0))),
    )


def encode(generation: Generation) -> bytes:
    """The inverse of reading one; the number is the file's name."""
    inside = isinstance(generation.target, Key)
    document = {
        "version": 1,
        "link": generation.link,
        "key" if inside else "path": generation.target.hex if isinstance(generation.target, Key) else generation.target,
        "previous": generation.previous,
        "cause": generation.cause,
        "when": generation.when,
        "restores": generation.restores,
    }
    return json.dumps(document, sort_keys=True).encode("ascii")


def kept(layout: Layout) -> Iterator[tuple[Key, str, int]]:
    """What every generation of every profile keeps alive: key, profile, number."""
    for name in names(layout):
        for generation in read(layout, name):
            if isinstance(generation.target, Key):
                yield generation.target, name, generation.number
