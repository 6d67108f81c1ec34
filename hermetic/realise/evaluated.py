"""A recipe evaluated down to keys: the step that every command about a recipe begins with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hermetic.canonical import Value
from hermetic.derivation import Derivation, Graph, derive_all
from hermetic.recipe import FixedOutput, Memo, Recipe, Stage, load
from hermetic.recipe.environments import Environment
from hermetic.recipe.gpu import Gpu
from hermetic.sandbox import environments, platform
from hermetic.sandbox.environments import Identity

__all__ = ["Evaluated", "evaluate", "split_reference"]


def split_reference(reference: str) -> tuple[str, str | None]:
    """``RECIPE#stage`` as file and stage name; the name is None where there is none."""
    file, mark, name = reference.rpartition("#")
    if mark and not os.path.exists(reference):
        return file, name or None
    return reference, None


@dataclass(frozen=True)
class Evaluated:
    """The target of a command, the checks it must pass, and the derivations of all of them."""

    recipe: Recipe
    target: Stage | FixedOutput
    checks: tuple[Stage, ...]
    graph: Graph
    identities: Mapping[Environment, Identity]

    @property
    def wanted(self) -> list[Derivation]:
        """The target's derivation, then those of its checks."""
        return [self.graph.by_stage[stage] for stage in (self.target, *self.checks)]


def evaluate(reference: str, overrides: Mapping[str, str], memo: Memo) -> Evaluated:
    """Load the recipe that `reference` names, select its stage and derive keys. Builds nothing, fetches nothing."""
    file, name = split_reference(reference)
    recipe = load(file, overrides, memo=memo)
    target = recipe.select(name)
    checks = tuple(recipe.checks_of(target))
    identities: dict[Environment, Identity] = {}

    def identify(environment: Environment) -> dict[str, Value]:
        identities[environment] = environments.identify(environment, memo)
        return identities[environment].value

    detected = platform.detect()
    graph = derive_all(
        recipe,
        (target, *checks),
        identify=identify,
        platform=detected.identity,
        memo=memo,
        gpu=_gpu,
    )
    return Evaluated(recipe, target, checks, graph, identities)


def _gpu(gpu: Gpu) -> dict[str, Value]:
    from hermetic.realise import gpus  # noqa: PLC0415  # few recipes ask for one

    return gpus.identity(gpu)
