"""NVIDIA's driver against the CUDA of an image: in a sandbox libcuda is the machine's, whatever the image brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.support.releases import contents, driver_for, is_older
from hermetic.recipe import Image, Stage

__all__ = ["cuda_of", "findings"]

_VARIABLE: Final = "CUDA_VERSION="


def cuda_of(image: Image) -> str:
    """The CUDA in `image`: what its environment says (``CUDA_VERSION``, as NVIDIA's images have it), else what is known
    of its tag; "" if neither.
    """
    said = next((one.removeprefix(_VARIABLE) for one in image.variables if one.startswith(_VARIABLE)), "")
    held = contents(image.reference)
    return said or (held.cuda if held is not None else "")


def findings(stages: Iterable[tuple[Stage, str]], driver: str = "") -> Iterator[Finding]:
    """``driver-too-old`` (errors) for the `stages`, which come with their names, that run on GPUs.

    Judged is `driver`, the version on a machine, or without one the oldest that the recipe says it is for
    (``Gpu.at_least_driver``), if it says so.
    """
    for stage, name in stages:
        asked = stage.gpu.at_least_driver if stage.gpu is not None else ""
        if stage.gpu is None or not (driver or asked):
            continue
        if driver and asked and is_older(driver, asked):
            yield _finding(stage, name, f"it needs driver {asked} or later, and this machine has {driver}", asked)
        elif isinstance(stage.environment, Image):
            cuda = cuda_of(stage.environment)
            needed, source = driver_for(cuda)
            if needed and is_older(driver or asked, needed):
                has = f"this machine has {driver}" if driver else f"the recipe is for {asked} and later"
                message = f"{stage.environment.reference} has CUDA {cuda}, which needs driver {needed} or later; {has}"
                yield _finding(stage, name, message, needed, source)


def _finding(stage: Stage, name: str, message: str, needed: str, source: str = "") -> Finding:
    place = stage.where
    file, line = (place.file, place.line) if place is not None else ("", 0)
    hint = f"driver {needed} or later, or an image with an older CUDA"
    return Finding("driver-too-old", Severity.ERROR, f"{name}: gpu", message, hint, source, file, line)
