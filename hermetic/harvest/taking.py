"""Moving what was judged into a folder of its own, with the files of inputs that belong to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase

from hermetic.errors import Domain, HermeticError
from hermetic.harvest.evidence import File
from hermetic.harvest.session import Conclusion
from hermetic.recipe.harvest import Harvest

__all__ = ["take", "too_small"]

_WEIGHTS = (".safetensors", ".bin")


def take(harvest: Harvest, conclusion: Conclusion, root: str, inputs: Mapping[str, str]) -> str:
    """Move the artefacts into a new folder of the workspace `root` and return its path; the stage is dead.

    `inputs` are paths by role. Their files never replace an artefact.
    Raises `HermeticError` (build/harvest-take) if an input has none of the files that it was to bring.
    """
    target = os.path.join(root, "harvest")
    os.mkdir(target, 0o755)
    for file in conclusion.files:
        place = os.path.join(target, file.name)
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        os.rename(os.path.join(root, conclusion.folder, file.name), place)
    for role, globs in harvest.take.items():
        brought = [name for name in sorted(os.listdir(inputs[role])) if any(fnmatchcase(name, glob) for glob in globs)]
        if not brought:
            message = f"input {role!r} has none of {', '.join(globs)}, which the harvest takes from it"
            raise HermeticError(Domain.BUILD, "harvest-take", message)
        for name in brought:
            place = os.path.join(target, name)
            if name != "config.json" and not os.path.lexists(place):
                shutil.copyfile(os.path.join(inputs[role], name), place)
    return target


def too_small(harvest: Harvest, files: tuple[File, ...], inputs: Mapping[str, str]) -> Iterator[str]:
    """Where the artefacts weigh less than the declared fraction of an input's weights."""
    size = sum(file.size for file in files)
    for role, fraction in harvest.floor.items():
        weights = _weights(inputs[role])
        if size < weights * Decimal(fraction):
            yield f"the artefacts have {size} bytes, less than {fraction} of the {weights} bytes of weights in {role!r}"


def _weights(path: str) -> int:
    if not os.path.isdir(path):
        return os.stat(path).st_size
    return sum(
        os.stat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
        if name.endswith(_WEIGHTS)
    )
