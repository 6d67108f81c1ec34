"""The first step of every verb that takes a recipe: store, memo, evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hermetic.cli import options, settings
from hermetic.store import Store

if TYPE_CHECKING:
    from hermetic.realise.evaluated import Evaluated
    from hermetic.recipe import Memo, Stage

__all__ = ["Opened", "open_store", "opened"]


@dataclass(frozen=True)
class Opened:
    """A recipe evaluated against a store."""

    reference: str
    overrides: dict[str, str]
    store: Store
    evaluated: Evaluated
    memo: Memo

    def building(self) -> dict[Stage, str]:
        """The stages that would be built now, with their names."""
        from hermetic.realise.plan import make_plan

        evaluated = self.evaluated
        plan = make_plan(evaluated.graph, [item.key for item in evaluated.wanted], self.store)
        return {step.stage: step.name for step in plan.to_build}

    def remember(self) -> None:
        """Let the next command about the same find its answer without evaluating anything."""
        from hermetic.cli import remembered
        from hermetic.recipe import Stage

        stages = [item for item in self.evaluated.graph.by_stage if isinstance(item, Stage)]
        if any(stage.gpu is not None and not stage.gpu.declared for stage in stages):
            return  # containers with different GPUs may share a boot id and a home
        remembered.remember(self.reference, self.overrides, self.evaluated, self.memo)


def open_store(given: str | None, *, create: bool = False) -> Store:
    return Store.open(settings.store_root(given), create=create)


def opened(reference: str, sets: tuple[str, ...], store: str | None) -> Opened:
    from hermetic.realise.evaluated import evaluate  # which a verb about the store alone does without
    from hermetic.recipe import Memo

    memo = Memo(os.path.join(settings.cache_folder(), "digests.json"))
    overrides = options.overrides(sets)
    evaluated = evaluate(reference, overrides, memo)
    memo.save()
    return Opened(reference, overrides, open_store(store, create=True), evaluated, memo)
