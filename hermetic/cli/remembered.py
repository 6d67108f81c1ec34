"""The evaluation cache: what a recipe came to, valid while everything that it was derived from is as it was.

An evaluation leaves behind what it looked at: the recipe, its modules, its sources, its lock file, the interpreter,
hermetic's own code, each with the signature that the file system gave. While all of them still hold, the same request
has the same keys. This module imports neither pydantic nor click, nor json, which alone would cost 6 ms.

A file is the length of a head in eight bytes, the head, and the graph, which only a plan reads, both in Python's
marshal format.
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

__all__ = ["DAMAGE", "Graph", "Remembered", "find", "remember"]

_FORMAT = 5
_LENGTH = 8

#: What reading a file that is not as we wrote it may raise.
DAMAGE = (OSError, ValueError, EOFError, TypeError, KeyError, IndexError)


class Graph:
    """Derivations by number, inputs first: `keys` in hexadecimal, `outputs` as their names in ``store/`` are, and
    `needs` the numbers of what each is built from. `fetches` has the bytes of those that are fetched, by number,
    `expects` those that a stage expects of itself; `gpus` are those that need one.
    """

    __slots__ = ("expects", "fetches", "gpus", "keys", "needs", "outputs")

    def __init__(
        self,
        keys: list[str],
        outputs: list[str],
        needs: list[list[int]],
        fetches: dict[int, int],
        expects: dict[int, int],
        gpus: list[int],
    ) -> None:
        if not len(keys) == len(outputs) == len(needs):
            raise ValueError("a damaged graph")
        self.keys = keys
        self.outputs = outputs
        self.needs = needs
        self.fetches = fetches
        self.expects = expects
        self.gpus = gpus


class Remembered:
    """One evaluation. `wanted` are the key and the name of the target, then of its checks, the last of the graph."""

    __slots__ = ("_graph", "wanted")

    def __init__(self, wanted: list[tuple[str, str]], graph: bytes) -> None:
        self.wanted = wanted
        self._graph = graph

    def graph(self) -> Graph:
        """Raises one of `DAMAGE`."""
        return Graph(*marshal.loads(self._graph))  # noqa: S302  # as in `find`


def find(reference: str, overrides: Mapping[str, str]) -> Remembered | None:
    """What was remembered of this request; None if there is nothing, or something has changed since.

    Raises one of `DAMAGE`.
    """
    asked = _asked(reference, overrides)
    with open(_file(asked), "rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH), "little")
        head: dict[str, Any] = marshal.loads(stream.read(length))  # noqa: S302  # the user's own cache, ours to write
        if head["asked"] != asked or not _as_observed(head["observed"]):
            return None
        return Remembered(head["wanted"], stream.read())


def _as_observed(observed: list[tuple[str, bool, list[int] | None]]) -> bool:
    for path, follow, mark in observed:
        try:
            now = os.stat(path) if follow else os.lstat(path)
        except OSError:
            if mark is not None:
                return False
            continue
        if mark != [now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_mode]:
            return False
    return True


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


def remember(reference: str, overrides: Mapping[str, str], evaluated: Evaluated, memo: Memo) -> None:
    """Record an evaluation; nothing if a file that it looked at is too young to be believed."""
    import time

    from hermetic.recipe.memo import is_settled

    for path in _own_files():
        memo.observe(path)
    now = time.time_ns()
    if any(mark is not None and not is_settled(mark, now) for mark in memo.observed.values()):
        return
    asked = _asked(reference, overrides)
    head = marshal.dumps(
        {
            "asked": asked,
            "wanted": [(derivation.key.hex, derivation.name) for derivation in evaluated.wanted],
            "observed": [(path, follow, mark and list(mark)) for (path, follow), mark in memo.observed.items()],
        }
    )
    _write(_file(asked), len(head).to_bytes(_LENGTH, "little") + head + marshal.dumps(_graph(evaluated)))


def _graph(
    evaluated: Evaluated,
) -> tuple[list[str], list[str], list[list[int]], dict[int, int], dict[int, int], list[int]]:
    """What `Graph` is made of."""
    derivations = evaluated.graph.derivations
    numbers = {key: number for number, key in enumerate(derivations)}
    return (
        [key.hex for key in derivations],
        [f"{key.base32}-{derivation.name}" for key, derivation in derivations.items()],
        [[numbers[key] for _, key in derivation.built_inputs()] for derivation in derivations.values()],
        {numbers[key]: item.fixed.size for key, item in derivations.items() if item.fixed is not None},
        {
            numbers[key]: expected
            for key, item in derivations.items()
            if item.fixed is None and (expected := item.stage.expected_bytes())
        },
        [numbers[key] for key, item in derivations.items() if item.fixed is None and item.stage.gpu is not None],
    )


def _write(file: str, data: bytes) -> None:
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(f"{file}.{os.getpid()}", "wb") as stream:
            stream.write(data)
        os.replace(f"{file}.{os.getpid()}", file)
    except OSError:
        return  # a cache that cannot be written costs time, never correctness


def _own_files() -> list[str]:
    """Hermetic's own modules: a newer hermetic may derive other keys from the same recipe."""
    found = (getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("hermetic"))
    return [file for file in found if file]
