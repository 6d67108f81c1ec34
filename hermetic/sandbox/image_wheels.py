"""Wheels over an image: a store path of their own at ``/build/env/wheels``, imported before what the image has.

``PYTHONPATH`` puts them there: it comes before site-packages, needs no ``.pth`` file, runs nothing of the wheels' and
changes nothing in the image. The tree depends on the lock and on the image's Python and glibc, not on the image.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch import wheels
from hermetic.fetch.wheel_lock import parse_lock
from hermetic.recipe.environments import Image, ImageWheels
from hermetic.sandbox.plan import Mount
from hermetic.sandbox.python import WHEELS, Tree, realise

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store import Run, Store

__all__ = ["materialise", "planned", "value", "variables"]

_LAYOUT: Final = 1

Progress = Callable[[str, int, "int | None"], None]


def value(layered: ImageWheels) -> dict[str, Value]:
    """Their part of a stage's preimage."""
    version, libc = _inside(layered)
    return {"wheels": parse_lock(layered.text, layered.lock).digest.hex, "version": version, "libc": libc}


def variables(image: Mapping[str, str]) -> dict[str, str]:
    """An image's variables, with the wheels first on Python's path."""
    own = image.get("PYTHONPATH", "")
    return {**image, "PYTHONPATH": f"{WHEELS}:{own}" if own else WHEELS}


async def materialise(
    image: Image, run: Run, progress: Progress | None, indexes: Mapping[str, str]
) -> tuple[Mount, ...]:
    """Make the tree exist; its mount, or none without wheels. Raises as `wheels.install`."""
    if image.wheels is None:
        return ()
    return (await realise(_tree(image, image.wheels, progress, indexes), run, run.store),)


def planned(image: Image, store: Store) -> tuple[Mount, ...]:
    """The mount that `materialise` will give, whether or not anything is there yet."""
    if image.wheels is None:
        return ()
    tree = _tree(image, image.wheels, None, {})
    return (Mount(str(store.path(tree.key, tree.name)), tree.place),)


def _tree(image: Image, layered: ImageWheels, progress: Progress | None, indexes: Mapping[str, str]) -> Tree:
    lock = parse_lock(layered.text, layered.lock)
    version, libc = _inside(layered)
    shebang = image.python if image.python.startswith("/") else f"/usr/bin/env {image.python}"
    preimage: dict[str, Value] = {"environment": "image-wheels", "layout": _LAYOUT, "shebang": shebang}
    preimage |= {"machine": f"{os.uname().machine}-linux", **value(layered)}

    async def make(scratch: str) -> None:
        await wheels.install(
            lock,
            f"{scratch}/out",
            python=sys.executable,  # uv wants one; it installs for `suiting`
            scratch=f"{scratch}/scratch",
            shebang=shebang,
            indexes=indexes,
            progress=None if progress is None else lambda done: progress("wheels", done, None),
            suiting=wheels.Suiting(version, libc),
        )

    return Tree("wheels", WHEELS, preimage, make)


def _inside(layered: ImageWheels) -> tuple[str, str]:
    version, _, libc = layered.inside.partition(" glibc ")
    if not libc:
        message = "wheels are to be laid over an image, and nobody has asked which Python is in it"
        raise HermeticError(Domain.RECIPE, "not-locked", message, hint="hermetic lock RECIPE")
    return version, libc
