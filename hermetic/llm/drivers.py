"""NVIDIA's driver against the CUDA of an image: in a sandbox libcuda is the machine's, whatever the image brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from hermetic.llm.findings import Finding, Severity
from hermetic.llm.support.releases import contents, cuda_for, driver_for, driver_for_gpu, is_older
from hermetic.recipe import Environment, Gpu, Image, Stage

__all__ = ["against", "cuda_of", "findings", "without_kernels"]

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

    Judged is `driver`, the version on a machine that will build them, or without one the oldest that the recipe says it
    is for (``Gpu.at_least_driver``), if it says so; then also for what their results are run in.
    """
    for stage, name in stages:
        gpu, place = (stage.gpu, stage.environment) if driver else (stage.run_gpu, stage.run_environment)
        found = against(place, gpu, driver) if gpu is not None else None
        if found is not None:
            file, line = (stage.where.file, stage.where.line) if stage.where is not None else ("", 0)
            yield replace(found, where=f"{name}: gpu", file=file, line=line)


def against(place: Environment, gpu: Gpu, driver: str = "") -> Finding | None:
    """What speaks against `gpu` in `place` with `driver`, or without one with the oldest that `gpu` is for."""
    asked = gpu.at_least_driver
    if driver and asked and is_older(driver, asked):
        return _finding(f"it needs driver {asked} or later, and this machine has {driver}", asked)
    has = f"this machine has {driver}" if driver else f"the recipe is for {asked} and later"
    for whose, needed, source in _needed(place, gpu):
        if needed and (driver or asked) and is_older(driver or asked, needed):
            return _finding(f"{whose} needs driver {needed} or later; {has}", needed, source)
    return None


def _needed(place: Environment, gpu: Gpu) -> Iterator[tuple[str, str, str]]:
    """What asks for a driver, for which, and who says so."""
    yield str(gpu), *driver_for_gpu(gpu.sm.replace(".", ""))
    if isinstance(place, Image):
        cuda = cuda_of(place)
        yield f"{place.reference} has CUDA {cuda}, which", *driver_for(cuda)


def without_kernels(place: Environment, gpu: Gpu) -> Finding | None:
    """``gpu-and-image`` (an error): the CUDA in `place` is too old for the compute capability of `gpu`."""
    cuda = cuda_of(place) if isinstance(place, Image) else ""
    needed, source = cuda_for(gpu.sm.replace(".", ""))
    if not (isinstance(place, Image) and cuda and needed and is_older(cuda, needed)):
        return None
    message = f"{gpu} needs CUDA {needed}, and {place.reference} has {cuda}"
    hint = f"an image with CUDA {needed} or later, and the driver that goes with it"
    return Finding("gpu-and-image", Severity.ERROR, "gpu", message, hint, source)


def _finding(message: str, needed: str, source: str = "") -> Finding:
    hint = f"driver {needed} or later, or an image with an older CUDA"
    return Finding("driver-too-old", Severity.ERROR, "gpu", message, hint, source)
