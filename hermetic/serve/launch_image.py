"""The image that Triton is to be started in, against the tables of GPUs, drivers and releases, before it is brought."""

from __future__ import annotations

from collections.abc import Mapping

from hermetic.errors import Domain
from hermetic.llm import drivers
from hermetic.llm.findings import raise_errors
from hermetic.llm.support.releases import contents
from hermetic.recipe import Gpu, Image
from hermetic.serve.launch_command import Place, pinned
from hermetic.serve.triton_needs import Needs, insist_on_release

__all__ = ["insist_on_cuda", "insist_on_image", "served_in"]


def served_in(kind: str, named: Image | None, place: Place) -> Image | None:
    """Where an engine of `kind` will be started: in the image of the command line, else in the recipe's, `named`; None
    if in none. Raises `HermeticError` (usage/image-not-pinned).
    """
    if kind == "openvino" or place.triton:
        return None
    return Image(pinned(place.image)) if place.image else named


def insist_on_image(name: str, image: Image, wanted: Needs, driver: str) -> None:
    """Refuse what the tag of `image` tells already: another release than the engine `name` is of, a CUDA that cannot
    drive its GPU, or one that `driver` (this machine's, "" for none) cannot serve.

    Raises `HermeticError`: environment/release-mismatch, environment/gpu-and-image, environment/driver-too-old.
    """
    held = contents(image.reference)
    if held is not None:
        insist_on_release(name, wanted.release, held.tensorrt_llm, f"the image {image.reference}")
    if wanted.gpu is not None:
        insist_on_cuda(image, {}, wanted.gpu, driver)


def insist_on_cuda(image: Image, variables: Mapping[str, str], gpu: Gpu, driver: str) -> None:
    """The same of its CUDA, with the `variables` of its configuration, which know better than its tag.

    Raises `HermeticError` (environment/gpu-and-image, environment/driver-too-old).
    """
    told = tuple(f"{name}={value}" for name, value in variables.items())
    image = image.model_copy(update={"variables": told}) if told else image
    found = (drivers.without_kernels(image, gpu), drivers.against(image, gpu, driver))
    raise_errors((one for one in found if one is not None), Domain.ENVIRONMENT)
