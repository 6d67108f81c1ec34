"""The machine's NVIDIA driver, held against what is to be built, before anything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermetic.errors import Domain

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
    from hermetic.llm.findings import raise_errors
    from hermetic.sandbox.gpu import discover

    stages = [(stage, name) for stage, name in session.building().items() if stage.gpu is not None]
    driver = discover().driver if stages else ""
    if driver:
        raise_errors(findings(stages, driver), Domain.ENVIRONMENT)
