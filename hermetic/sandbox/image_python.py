"""Asks inside an image which Python it has: what decides which wheels suit it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hermetic.errors import Domain, HermeticError
from hermetic.recipe.environments import Image
from hermetic.sandbox import images, runner, workspace
from hermetic.sandbox.plan import LaunchPlan

if TYPE_CHECKING:
    from hermetic.store import Run

__all__ = ["ask"]

_PROBE: Final = "import platform as p; print(p.python_implementation(), p.python_version(), *p.libc_ver())"
_ANSWER: Final = re.compile(r"CPython ([0-9]+\.[0-9]+\.[0-9]+)\S* (glibc [0-9]+\.[0-9]+)")

Progress = Callable[[str, int, "int | None"], None]


async def ask(image: Image, run: Run, progress: Progress | None = None, runtime: str = "bwrap") -> str:
    """Bring the image and start its `python` once, in the ordinary sandbox; "3.12.3 glibc 2.39".

    Raises `HermeticError`: environment/image-python if it is no CPython on glibc, and what bringing an image raises.
    """
    root = await images.materialise(image, run, progress, runtime)
    said: list[bytes] = []
    log = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    with run.workspace() as place:
        folder = str(place.path)
        workspace.prepare(folder)
        (place.path / "stage.json").write_bytes(b"{}")
        plan = LaunchPlan(
            argv=(image.python, "-I", "-S", "-c", _PROBE),
            workspace=folder,
            environment=root.variables,
            root=root.path,
            image=images.pinned(image),
        )
        try:
            await runner.run(plan, log=log, on_output=said.append, runtime=runtime)
        finally:
            os.close(log)
    text = b"".join(said).decode(errors="replace").strip()
    match = _ANSWER.fullmatch(text)
    if match is None:
        message = f"{image.python} of the image {image.reference} is no CPython on glibc; it says: {text[-300:]}"
        hint = 'name another one with Image(..., python="/path/of/python3")'
        raise HermeticError(Domain.ENVIRONMENT, "image-python", message, hint=hint)
    return f"{match[1]} {match[2]}"
