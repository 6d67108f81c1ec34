"""What of a plan is known to fail on this machine, before hours go into what it needs first."""

from __future__ import annotations

from typing import Any

from hermetic.canonical import Value
from hermetic.derivation import Derivation
from hermetic.errors import HermeticError
from hermetic.realise.gpus import insist
from hermetic.realise.plan import Plan
from hermetic.store import Store

__all__ = ["hopeless"]

#: Fields of a preimage that the result of an equal stage may differ in and still be taken over.
_OPEN = frozenset({"name", "inputs"})


def hopeless(plan: Plan, store: Store) -> list[HermeticError]:
    """Why stages of `plan` cannot be built here, for want of their GPU (environment/gpu-missing, gpu-mismatch).

    A stage of which this store has a result that differs in inputs alone is not among them: the inputs may turn out to
    be the same bytes, and then it is not run.
    """
    errors = [(step, error) for step in plan.to_build if (error := _unfit(step)) is not None]
    if not errors:
        return []
    known = [_closed(preimage) for key, preimage in store.preimages() if store.realisation(key) is not None]
    return [error for derivation, error in errors if _closed(derivation.preimage) not in known]


def _unfit(derivation: Derivation) -> HermeticError | None:
    gpu = derivation.stage.gpu
    if gpu is None:
        return None
    try:
        insist(gpu, f"stage {derivation.name!r}")
    except HermeticError as error:
        return error
    return None


def _closed(preimage: dict[str, Value]) -> dict[str, Any]:
    return {name: value for name, value in preimage.items() if name not in _OPEN}
