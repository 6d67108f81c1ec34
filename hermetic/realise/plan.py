"""What a realisation will do, before it does anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hermetic.derivation import Derivation, Graph
from hermetic.digest import Key
from hermetic.store import Store

__all__ = ["Plan", "Step", "make_plan"]


@dataclass(frozen=True, slots=True)
class Step:
    """One derivation and what is to be done about it."""

    derivation: Derivation
    action: Literal["in-place", "build", "fetch"]


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which inputs come first. A path that is in place hides what it was built from."""

    steps: tuple[Step, ...]

    @property
    def to_build(self) -> list[Derivation]:
        return [step.derivation for step in self.steps if step.action == "build"]

    @property
    def to_fetch(self) -> list[Derivation]:
        """Fixed outputs to bring from elsewhere."""
        return [step.derivation for step in self.steps if step.action == "fetch"]


def make_plan(graph: Graph, wanted: Iterable[Key], store: Store) -> Plan:
    """Look from the wanted keys towards the inputs, and stop at what the store already has."""
    actions: dict[Key, Literal["in-place", "build", "fetch"]] = {}
    pending = list(wanted)
    while pending:
        key = pending.pop()
        if key in actions:
            continue
        if store.realisation(key) is not None:
            actions[key] = "in-place"
            continue
        actions[key] = "fetch" if graph[key].fixed is not None else "build"
        pending.extend(built for _, built in graph[key].built_inputs())
    return Plan(tuple(Step(graph[key], actions[key]) for key in graph.derivations if key in actions))
