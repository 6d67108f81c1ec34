"""The answer to a command whose result is in place, without evaluating the recipe.

A realisation leaves behind what it looked at: the recipe, its modules, its sources, the interpreter, hermetic's own
code, each with the signature that the file system gave. While all of them still hold, the same command has the same
keys. This module imports neither pydantic nor click, nor json, which alone would cost 6 ms; anything it is not sure of
it leaves to the ordinary path.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False  # `typing` itself takes 7 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from hermetic.realise.evaluated import Evaluated
    from hermetic.recipe import Memo

__all__ = ["answer", "remember"]

_FORMAT = 1


def answer(arguments: list[str]) -> int | None:
    """Print the store path and return 0 if everything asked for is in place; None if it has to be worked out."""
    request = _parse(arguments)
    if request is None:
        return None
    from hermetic.cli import settings
    from hermetic.store import peek

    try:
        root = settings.store_root(request["store"])
        recorded = _recorded(_asked(request["reference"], request["sets"]))
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None
    if recorded is None or not all(peek.realised(root, key, name) for key, name in recorded["wanted"]):
        return None
    path = peek.path(root, *recorded["wanted"][0])
    if not (request["no_link"] or peek.rooted(root, os.path.abspath(request["out_link"]), path)):
        return None
    sys.stdout.write(path + "\n")
    return 0


def _parse(arguments: list[str]) -> dict[str, Any] | None:
    """The plain form of realise; anything else is for the real parser."""
    if not arguments or arguments[0] not in ("realise", "build"):
        return None
    request: dict[str, Any] = {"store": None, "sets": {}, "out_link": "result", "no_link": False, "reference": None}
    names = {"--store": "store", "-o": "out_link", "--out-link": "out_link"}
    rest = iter(arguments[1:])
    for item in rest:
        if item in names or item == "--set":
            value = next(rest, None)
            if value is None:
                return None
            if item == "--set":
                name, mark, given = value.partition("=")
                if not mark:
                    return None
                request["sets"][name] = given
            else:
                request[names[item]] = value
        elif item == "--no-link":
            request["no_link"] = True
        elif item.startswith("-") or request["reference"] is not None:
            return None
        else:
            request["reference"] = item
    return request if request["reference"] else None


def _asked(reference: str, overrides: Mapping[str, str]) -> str:
    """Everything outside of files that the answer depends on."""
    from hermetic import __version__

    version = [_FORMAT, __version__, sys.version, sys.executable]
    return repr([*version, _boot(), os.getcwd(), reference, sorted(overrides.items())])


def _boot() -> str:
    """Keys may depend on the processor, and a home may be shared by machines that differ in it."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read()


def _file(asked: str) -> str:
    from zlib import crc32  # a checksum is enough: the whole request stands in the file

    from hermetic.cli import settings

    return os.path.join(settings.cache_folder(), "evaluations", f"{crc32(asked.encode()):08x}")


def _recorded(asked: str) -> dict[str, Any] | None:
    """What was recorded, if everything it was derived from is as it was."""
    with open(_file(asked), "rb") as stream:
        recorded: dict[str, Any] = marshal.loads(stream.read())  # noqa: S302  # the user's own cache, ours to write
    if recorded["asked"] != asked:
        return None
    for path, follow, mark in recorded["observed"]:
        try:
            now = os.stat(path) if follow else os.lstat(path)
        except OSError:
            if mark is not None:
                return None
            continue
        if mark != [now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_mode]:
            return None
    return recorded


def remember(reference: str, overrides: Mapping[str, str], evaluated: Evaluated, memo: Memo) -> None:
    """Record the keys and everything they were derived from; nothing if a file is too young to be believed."""
    import time

    from hermetic.recipe.memo import is_settled

    for path in _own_files():
        memo.observe(path)
    now = time.time_ns()
    if any(mark is not None and not is_settled(mark, now) for mark in memo.observed.values()):
        return
    asked = _asked(reference, overrides)
    file = _file(asked)
    document = {
        "asked": asked,
        "wanted": [[derivation.key.hex, derivation.name] for derivation in evaluated.wanted],
        "observed": [[path, follow, mark and list(mark)] for (path, follow), mark in memo.observed.items()],
    }
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(f"{file}.{os.getpid()}", "wb") as stream:
            stream.write(marshal.dumps(document))
        os.replace(f"{file}.{os.getpid()}", file)
    except OSError:
        return  # a cache that cannot be written costs time, never correctness


def _own_files() -> list[str]:
    """Hermetic's own modules: a newer hermetic may derive other keys from the same recipe."""
    found = (getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("hermetic"))
    return [file for file in found if file]
