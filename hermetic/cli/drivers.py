"""The machine's NVIDIA driver, held against what is to be built, before anything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermetic.errors import Domain, HermeticError, HermeticErrors

if TYPE_CHECKING:
    from hermetic.cli.common import Opened

__all__ = ["refuse"]


def refuse(session: Opened) -> None:
    """Stop if a stage that will be built on a GPU is in an image whose CUDA this machine's driver cannot serve.

    A machine without a driver is the matter of the stage itself. Raises `HermeticError` (environment/driver-too-old).
    """
    if not any(stage.gpu is not None for stage in session.evaluated.recipe.names):
        return
    from hermetic.llm.drivers import findings
    from hermetic.realise.plan import make_plan
    from hermetic.sandbox.gpu import discover

    evaluated = session.evaluated
    plan = make_plan(evaluated.graph, [item.key for item in evaluated.wanted], session.store)
    stages = [(step.stage, step.name) for step in plan.to_build if step.stage.gpu is not None]
    driver = discover().driver if stages else ""
    found = findings(stages, driver) if driver else ()
    errors = [
        HermeticError(Domain.ENVIRONMENT, one.code, f"{one.where}: {one.message}", hint=one.hint) for one in found
    ]
    if errors:
        raise errors[0] if len(errors) == 1 else HermeticErrors(errors)
