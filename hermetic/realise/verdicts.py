"""What can be built on a machine with these facts, for each engine kind, and what mends each "no"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["KINDS", "verdicts", "without_sandbox"]

#: Engine kind: what it needs besides a sandbox and a store, by the dotted place of the fact.
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "openvino": ("tools.uv",),
    "aoti": ("tools.g++",),
    "tensorrt-llm": ("gpu", "tools.umoci"),
    "tensorrt-llm-pytorch": ("gpu", "tools.umoci"),
}

_SANDBOXES: Final = ("bwrap", "podman")  # what hermetic starts stages in
_NOTES: Final = {
    "openvino": "for processors",
    "aoti": "torch comes from a virtual environment that the recipe names",
    "tensorrt-llm": "in the image that the recipe names",
    "tensorrt-llm-pytorch": "in the image that the recipe names",
}


def verdicts(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By engine kind: `works`, `missing` (what, why, the command that mends it), `sandbox`, `device`, `note`."""
    return {kind: _verdict(kind, needs, facts) for kind, needs in KINDS.items()}


def _verdict(kind: str, needs: tuple[str, ...], facts: Mapping[str, Any]) -> dict[str, Any]:
    missing = [*_no_sandbox(facts), *_lacking("store", facts)]
    for need in needs:
        missing += _lacking(need, facts)
    device = "cuda" if facts["gpu"]["works"] and kind != "openvino" else "cpu"
    sandbox = next((name for name in _SANDBOXES if facts["runtimes"][name]["works"]), "")
    return {"works": not missing, "missing": missing, "sandbox": sandbox, "device": device, "note": _NOTES[kind]}


def _lacking(place: str, facts: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    fact: Any = facts
    for part in place.split("."):
        fact = fact[part]
    if not fact["works"]:
        yield {"what": place, "why": fact.get("error", ""), "mend": fact.get("hint", "")}


def _no_sandbox(facts: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One of them is enough; what mends the first is the shorter way."""
    tried = [facts["runtimes"][name] for name in _SANDBOXES]
    if not any(found["works"] for found in tried):
        yield {"what": "sandbox", "why": tried[0].get("error", ""), "mend": tried[0].get("hint", "")}


def without_sandbox(facts: Mapping[str, Any]) -> list[str]:
    """What can be done where bubblewrap cannot start, as in a pod that may make no user namespaces, best first."""
    runtimes = facts["runtimes"]
    if runtimes["bwrap"]["works"]:
        return []
    ways = []
    if runtimes["podman"]["works"]:
        ways.append("podman works: hermetic realise --runtime podman makes the same keys and results")
    if runtimes["docker"]["works"]:
        ways.append("docker answers: hermetic plan --commands RECIPE prints the docker commands of stages in images")
    ways.append(
        "run the stage's program in a pod that is started from the pinned image itself, and adopt what it leaves with "
        "hermetic import DIR: the result is marked impure, and never signed or pushed"
    )
    return ways
