"""The answer to a command whose recipe has not changed since it was last evaluated, without evaluating it.

Three questions are answered here: where a result is, that everything asked for is in place, and what a plan would do
in a store that has no history to judge it by. This module imports neither pydantic nor click; anything that it is not
sure of it leaves to the ordinary path, before it has written a byte.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` itself takes 7 ms to import
if TYPE_CHECKING:
    from typing import Any

    from hermetic.cli.remembered import Remembered

__all__ = ["answer"]

_VERBS = {"realise": "realise", "build": "realise", "plan": "plan", "path": "path"}
_VALUES = {"--store": "store", "-o": "out_link", "--out-link": "out_link"}
_FLAGS = {"--no-link": "no_link", "-n": "dry_run", "--dry-run": "dry_run"}


def answer(arguments: list[str]) -> int | None:
    """Print the answer and return 0; None if it has to be worked out."""
    request = _parse(arguments)
    if request is None:
        return None
    from hermetic.cli import remembered, settings
    from hermetic.store import peek

    try:
        root = settings.store_root(request["store"])
        found = remembered.find(request["reference"], request["sets"])
        if found is None or not peek.usable(root):
            return None
        text, note = _ANSWERS[request["verb"]](request, root, found) or ("", "")
    except remembered.DAMAGE:
        return None
    if not text:
        return None
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # the interpreter flushes stdout at exit
    sys.stderr.write(note)
    return 0


def _parse(arguments: list[str]) -> dict[str, Any] | None:
    """The plain form of a verb; anything else is for the real parser."""
    if not arguments or arguments[0] not in _VERBS:
        return None
    verb = _VERBS[arguments[0]]
    request: dict[str, Any] = {"verb": verb, "store": None, "sets": {}, "out_link": "result", "reference": None}
    rest = iter(arguments[1:])
    for item in rest:
        if item in {"--set", "--store"} or (item in _VALUES and verb == "realise"):
            value = next(rest, None)
            if value is None or not _take(request, item, value):
                return None
        elif item in _FLAGS and verb == "realise":
            request[_FLAGS[item]] = True
        elif item.startswith("-") or request["reference"] is not None:
            return None
        else:
            request["reference"] = item
    if "dry_run" in request:
        request["verb"] = "plan"
    return request if request["reference"] else None


def _take(request: dict[str, Any], option: str, value: str) -> bool:
    if option != "--set":
        request[_VALUES[option]] = value
        return True
    name, mark, given = value.partition("=")
    request["sets"][name] = given
    return bool(mark and name)


def _realise(request: dict[str, Any], root: str, found: Remembered) -> tuple[str, str] | None:
    """Where the result is, if it is in place, its checks have passed and its link stands."""
    from hermetic.store import peek

    if not all(peek.realised(root, key, name) for key, name in found.wanted):
        return None
    path = peek.path(root, *found.wanted[0])
    if not ("no_link" in request or peek.rooted(root, os.path.abspath(request["out_link"]), path)):
        return None
    return path + "\n", ""


def _path(_: dict[str, Any], root: str, found: Remembered) -> tuple[str, str]:
    from hermetic.store import peek

    return peek.path(root, *found.wanted[0]) + "\n", ""


def _plan(_: dict[str, Any], root: str, found: Remembered) -> tuple[str, str] | None:
    from hermetic.cli import plan_text, settings
    from hermetic.store import peek

    if not peek.is_sure(root) or settings.find("images") is not None:
        return None  # an organisation may refuse what is to be built
    graph = found.graph()
    in_place = _looked_up(graph.keys, graph.outputs, graph.needs, [key for key, _ in found.wanted], root)
    fetching = sum(graph.fetches[number] for number, there in in_place.items() if not there and number in graph.fetches)
    expected = [graph.expects[number] for number, there in in_place.items() if not there and number in graph.expects]
    if fetching + sum(expected) > peek.free(root):
        return None  # there is a warning to give
    if not all(in_place.get(number, True) for number in graph.gpus):
        return None  # which this machine may not have
    building = sum(not there and number not in graph.fetches for number, there in in_place.items())
    if building and peek.has_history(root):
        return None  # from which reasons and times are told
    lines = []
    for number in sorted(in_place):
        output = graph.outputs[number]
        action, reason = ("in-place", "") if in_place[number] else ("build", plan_text.NEW)
        if not in_place[number] and number in graph.fetches:
            action, reason = "fetch", plan_text.amount(graph.fetches[number])
        lines.append(plan_text.line(action, output[peek.KEY + 1 :], f"{root}/store/{output}", reason) + "\n")
    note = plan_text.summary(building, len(in_place), fetching=fetching)
    if expected:
        note += plan_text.disk(fetching + sum(expected), building - len(expected))
    return "".join(lines), note + "\n"


def _looked_up(
    keys: list[str], outputs: list[str], needs: list[list[int]], wanted: list[str], root: str
) -> dict[int, bool]:
    """Whether each derivation is in place, looking from the wanted ones towards their inputs as far as need be."""
    from hermetic.store import peek

    lookup = peek.Lookup(root)
    actions: dict[int, bool] = {}
    pending = [keys.index(key) for key in wanted]
    while pending:
        number = pending.pop()
        if number not in actions:
            actions[number] = lookup(keys[number], outputs[number])
            if not actions[number]:
                pending += needs[number]
    return actions


_ANSWERS = {"realise": _realise, "plan": _plan, "path": _path}
