"""The image that Triton is to be started in, against the organisation's approved images and the tables."""

from __future__ import annotations

from hermetic.cli import approved, console
from hermetic.cli.serving import Prepared
from hermetic.errors import HermeticError, HermeticErrors
from hermetic.recipe import Image
from hermetic.sandbox.gpu import discover
from hermetic.serve.launch_command import Place, pinned
from hermetic.serve.launch_image import insist_on_image, served_in
from hermetic.serve.triton_deployment import Deployment, read_deployment
from hermetic.serve.triton_needs import told

__all__ = ["insist", "insist_on_written"]


def insist(found: Prepared, place: Place) -> None:
    """Stop before Triton is started in an image that is not approved. Raises `HermeticError` (trust/image-…).

    Whether it can drive the engine's GPU is what `hermetic.serve.launch_place` asks, of what is there.
    """
    kind = read_deployment(found.subject.repository).kind
    image = served_in(kind, found.subject.image, place)
    if image is not None:
        approved.refuse_image(image, f"Triton of {found.subject.name}")


def insist_on_written(found: Prepared, name: str, deployment: Deployment) -> None:
    """The same of the image `name` in files for another machine, whose driver is not known: this one's is a warning.

    Raises `HermeticError`: trust/image-…, usage/image-not-pinned, and what `insist_on_image` raises.
    """
    image = Image(pinned(name))
    subject = found.subject
    approved.refuse_image(image, f"Triton of {subject.name}")
    if deployment.kind == "openvino":
        return
    wanted = told(subject.engine, deployment, subject.known)
    insist_on_image(subject.name, image, wanted, "")
    try:
        insist_on_image(subject.name, image, wanted, discover().driver)
    except HermeticError as error:
        for one in error.errors if isinstance(error, HermeticErrors) else [error]:
            console.warning(f"not on this machine: {one.message}")
