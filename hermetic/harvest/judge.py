"""Whether artefacts are whole: a pure decision on an `Examination`, with a reason for every doubt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hermetic.harvest.evidence import Content, Examination, File
from hermetic.recipe.harvest import Harvest, KnownSizes, LogLine

__all__ = ["mismatches", "reasons_against"]

_ENGINE: Final = re.compile(r"(?:.*/)?rank(\d+)\.engine")
_NOTHING: Final = Content()
_TICK: Final = 10_000_000  # ns: a file's mtime is taken from the kernel's last tick, a line's time from the clock


def reasons_against(harvest: Harvest, seen: Examination) -> list[str]:
    """Why the artefacts must not be taken, in words; empty if they are whole.

    Whether they have been still for long enough is not judged here, and a `Validator` has the last word elsewhere.
    """
    glance = seen.glance
    if glance.problem:
        return [glance.problem]
    doubts = [seen.killed] if seen.killed else []
    doubts += [f"nothing matches {glob}" for glob in glance.missing]
    doubts += [f"{name}: {content.problem}" for name, content in sorted(seen.contents.items()) if content.problem]
    doubts += [f"{file.name}: its content was not read" for file in glance.files if file.name not in seen.contents]
    doubts += [*seen.holders, *seen.hidden]
    ranks = None
    if harvest.ranked and "config.json" not in glance.missing:
        ranks = _ranks(_config(seen))
        doubts += _rank_doubts(ranks, glance.files)
    return [*doubts, *_tail_doubts(harvest, seen, ranks)]


def mismatches(harvest: Harvest, config: Mapping[str, Any]) -> list[str]:
    """Where the engine's ``config.json`` says something else than was asked for."""
    found = []
    for path, wanted in harvest.config.items():
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            found.append(f"{path} is {value!r}, asked for was {wanted!r}")
    return found


def _config(seen: Examination) -> Mapping[str, Any]:
    content = seen.contents.get("config.json")
    return content.document or {} if content is not None else {}


def _ranks(config: Mapping[str, Any]) -> int | str:
    """How many engines `config` implies, or why that cannot be said.

    TensorRT-LLM writes ``pretrained_config.mapping`` with world_size = tp_size * pp_size * cp_size.
    """
    pretrained = config.get("pretrained_config")
    mapping = pretrained.get("mapping") if isinstance(pretrained, Mapping) else None
    if not isinstance(mapping, Mapping):
        return "config.json: has no pretrained_config.mapping, which says how many ranks there are"
    sizes = {name: mapping.get(f"{name}_size", 1) for name in ("tp", "pp", "cp")}
    world = mapping.get("world_size", sizes["tp"] * sizes["pp"] * sizes["cp"] if _are_counts(*sizes.values()) else None)
    if not _are_counts(world, *sizes.values()):
        return f"config.json: its mapping {dict(mapping)} has no whole numbers of ranks"
    if world != sizes["tp"] * sizes["pp"] * sizes["cp"]:
        return f"config.json: world_size is {world}, but tp, pp and cp are {sizes['tp']}, {sizes['pp']}, {sizes['cp']}"
    return int(world)


def _are_counts(*values: object) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)


def _rank_doubts(ranks: int | str, files: tuple[File, ...]) -> Iterator[str]:
    if isinstance(ranks, str):
        yield ranks
        return
    there = {int(match[1]) for file in files if (match := _ENGINE.fullmatch(file.name))}
    yield from (f"rank{rank}.engine is not there; config.json implies {ranks}" for rank in _less(range(ranks), there))
    yield from (f"rank{rank}.engine is there, but config.json implies {ranks}" for rank in _less(there, range(ranks)))


def _less(these: Any, those: Any) -> list[int]:
    return sorted(set(these) - set(those))


def _tail_doubts(harvest: Harvest, seen: Examination, ranks: int | str | None) -> Iterator[str]:
    """A good head proves no tail: what says that each file's last byte is written?"""
    unproven = [file for file in seen.glance.files if not seen.contents.get(file.name, _NOTHING).proven]
    complete = harvest.complete
    if isinstance(complete, KnownSizes):
        yield from _size_doubts(complete, unproven, seen.contents)
    elif isinstance(complete, LogLine):
        engines = [file for file in unproven if _ENGINE.fullmatch(file.name)]
        per_rank = complete.per_rank and isinstance(ranks, int)
        yield from _line_doubts(complete, seen.glance.lines, unproven, engines if per_rank else [])


def _size_doubts(complete: KnownSizes, unproven: list[File], contents: Mapping[str, Content]) -> Iterator[str]:
    for file in unproven:
        wanted = complete.sizes.get(file.name)
        if wanted is None:
            yield f"{file.name}: nothing says how large it must be"
        elif wanted != file.size:
            yield f"{file.name}: has {file.size} bytes of {wanted}"
        elif (hole := contents.get(file.name, _NOTHING).hole) is not None:
            yield f"{file.name}: has its size, but nothing was written at byte {hole}"
        elif contents.get(file.name, _NOTHING).blank:
            yield f"{file.name}: has its size, but ends in zeros, as a file that was filled first; ask for a line"


def _line_doubts(complete: LogLine, lines: tuple[int, ...], unproven: list[File], engines: list[File]) -> Iterator[str]:
    wanted = max(len(engines), 1)
    last = sorted(lines)[-wanted:]
    if len(last) < wanted:
        yield f"the log has {len(last)} of {wanted} lines that match {complete.pattern!r}"
        return
    # The k-th engine to be finished needs a k-th line after it: if any assignment of lines to engines works, this does.
    for file, line in zip(sorted(engines, key=lambda file: file.changed), last, strict=False):
        if file.changed > line + _TICK:
            yield f"{file.name}: was written after the line that says it is complete"
    for file in unproven:
        if file not in engines and file.changed > last[-1] + _TICK:
            yield f"{file.name}: was written after the line that says everything is complete"
