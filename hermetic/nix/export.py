"""A recipe's derivation graph as JSON, for ``nix/`` to build from: ``NAME.nix.json`` beside ``NAME.py``.

Nothing in it says where or when it was made: no interpreter's digest, no absolute path, no time. Inputs stand by role:
a stage by its name, a source by its path relative to the recipe and its tree digest, a fixed output by the files of its
lock entry. Environments stand by the files that a declared Python takes, or by an image's digest for each platform.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.wheel_lock import WheelLock, parse_lock
from hermetic.nix import choice
from hermetic.recipe import FixedOutput, Image, Memo, PythonEnv, Recipe, Source, Stage, load
from hermetic.recipe.environments import Environment
from hermetic.recipe.harvest import Validator
from hermetic.recipe.image_reference import parse_reference
from hermetic.recipe.lockfile import PLATFORM, ImageEntry, LockFile, lock_path
from hermetic.recipe.pins import locking
from hermetic.recipe.source import SINGLE, hash_source

__all__ = ["FORMAT", "PYTHON", "document", "export_path", "text"]

FORMAT: Final = "hermetic nix 1"
#: The Python of every `PythonEnv` that names no version: what runs hermetic says nothing of a machine with Nix.
PYTHON: Final = "3.11"

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HUB: Final = "https://huggingface.co"
#: What Nix needs of a stage's limits; the others are the scheduler's, and Nix has its own.
_LIMITS: Final = ("timeout", "silence")


def export_path(recipe: str) -> str:
    """Where the exported graph of the recipe file `recipe` lies."""
    return os.path.splitext(recipe)[0] + ".nix.json"


def text(found: Mapping[str, Any]) -> str:
    """The bytes of the file: the same graph always gives the same."""
    return json.dumps(found, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def document(
    file: str,
    overrides: Mapping[str, str],
    *,
    before: Mapping[str, Any] | None = None,
    indexes: Mapping[str, str] | None = None,
    memo: Memo | None = None,
    archive: Callable[[str, str, str], str] | None = None,
) -> dict[str, Any]:
    """The graph of all stages of the recipe `file`. `before` is what was exported last: wheels of locks that did not
    change are taken from there, others are asked for. So are the sha256 of images' archives, but only with `archive`,
    which says it for a repository, a digest and a platform (`hermetic.nix.archives.archive_hash`).

    Raises `HermeticError` with domain recipe for what Nix cannot build: recipe/nix-host, recipe/nix-gpu,
    recipe/nix-outside, recipe/nix-validator, recipe/nix-wheels; and as `load` and `choice.choose` do.
    """
    with locking():  # pins are judged one by one below
        recipe = load(file, overrides, memo=memo)
    work = _Export(recipe, file, memo or Memo(), before or {}, indexes or {}, archive)
    stages = {name: work.stage(stage) for stage, name in recipe.names.items()}
    found = {
        "format": FORMAT,
        "recipe": os.path.basename(file),
        "default": recipe.names[recipe.default] if recipe.default is not None else "",
        "environments": work.environments,
        "fixed": work.fixed,
        "sources": work.sources,
        "stages": stages,
    }
    return {name: value for name, value in found.items() if value != ""}


@dataclass
class _Export:
    recipe: Recipe
    file: str
    memo: Memo
    before: Mapping[str, Any]
    indexes: Mapping[str, str]
    archive: Callable[[str, str, str], str] | None
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    fixed: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stage(self, stage: Stage) -> dict[str, Any]:
        found = {
            "kind": stage.kind,
            "version": stage.version,
            "program": [self._program(name, path, stage) for name, path in stage.program_files().items()],
            "parameters": stage.parameters_in_full(),
            "inputs": {role: self._input(item, stage) for role, item in stage.inputs_by_role().items()},
            "environment": self._environment(stage.environment, stage),
            "harvest": self._harvest(stage),
            "limits": {name: value for name in _LIMITS if (value := getattr(stage, name))},
            "platform": list(stage.platform),
            "gpu": self._gpu(stage),
            "check": stage.check,
        }
        return {name: value for name, value in found.items() if value not in ({}, [], None, False)}

    def _program(self, name: str, path: str, stage: Stage) -> dict[str, str]:
        ours = os.path.relpath(path, _PACKAGE)
        if not ours.startswith(os.pardir):
            return {"name": name, "hermetic": ours}
        return {"name": name, "recipe": self._relative(path, stage)}

    def _relative(self, path: str, stage: Stage) -> str:
        found = os.path.relpath(path, os.path.dirname(os.path.abspath(self.file)))
        if found.startswith(os.pardir):
            message = f"{stage.where}: {path} does not lie beside the recipe, and Nix sees nothing else"
            raise HermeticError(Domain.RECIPE, "nix-outside", message, hint="move it, or a link's target, there")
        return found

    def _input(self, item: Stage | Source, stage: Stage) -> dict[str, str]:
        if isinstance(item, Stage):
            return {"stage": self.recipe.names[item]}
        if isinstance(item, FixedOutput):
            inside = {"inside": SINGLE.decode()} if item.single else {}
            return {"fixed": self._fixed(item), **inside}
        path = self._relative(item.path, stage)
        self.sources.setdefault(path, {"tree": hash_source(item, self.memo).hex})
        return {"source": path}

    def _fixed(self, item: FixedOutput) -> str:
        found = self._unresolved(item) or _files(item)
        known = next((name for name, value in self.fixed.items() if value == found), None)
        if known is None:
            known = _free(f"{item.uri}#{item.single}" if item.single else item.uri, self.fixed)
            self.fixed[known] = found
        return known

    def _unresolved(self, item: FixedOutput) -> dict[str, Any] | None:
        """What nobody could be asked for fails in Nix when it is built, so that all else of the recipe is there."""
        problem = item.problem(item.entry)
        if problem is None:
            return None
        if problem.reason != "unresolved":
            raise problem
        assert item.entry is not None
        return {"name": item.name, "unresolved": self._nobody_knew(item.uri, item.entry.unresolved)}

    def _nobody_knew(self, name: str, why: str) -> str:
        recipe = os.path.basename(self.file)
        how = f"where it can be asked for: hermetic lock {recipe}, then hermetic nix export {recipe}"
        return f"{name} could not be locked: {why}; {how}"

    def _environment(self, environment: Environment, stage: Stage) -> str:
        if isinstance(environment, PythonEnv):
            name = os.path.splitext(os.path.basename(environment.lock))[0]
            found = self._python(environment)
        elif isinstance(environment, Image):
            name, found = environment.reference, self._image(environment, stage)
        else:
            message = f"{stage.where}: {stage.kind} runs in files of one machine, which Nix does not have"
            raise HermeticError(Domain.RECIPE, "nix-host", message, hint="use a PythonEnv or an Image")
        while self.environments.setdefault(name, found) != found:
            name += "'"
        return name

    def _python(self, environment: PythonEnv) -> dict[str, Any]:
        lock = parse_lock(environment.text, environment.lock)
        python = ".".join(environment.python.split(".")[:2]) if environment.python[:1].isdigit() else PYTHON
        identity = {"kind": "python", "lock": lock.digest.hex, "python": python}
        for known in self.before.get("environments", {}).values():
            if identity.items() <= known.items():
                return dict(known)
        return {**identity, "wheels": self._wheels(lock, python)}

    def _wheels(self, lock: WheelLock, python: str) -> dict[str, list[choice.Wheel]]:
        """By system; one for which a package has no wheel is left out, so that Nix refuses it by name."""
        chosen: dict[str, list[choice.Wheel]] = {}
        missing: list[HermeticError] = []
        for system in choice.SYSTEMS:
            try:
                chosen[system] = choice.choose(lock, python, system, self.indexes)
            except HermeticError as error:
                if error.reason != "wheel-not-found":
                    raise
                missing.append(error)
        if not chosen:
            raise missing[0]
        return chosen

    def _image(self, image: Image, stage: Stage) -> dict[str, Any]:
        if image.wheels is not None:
            message = f"{stage.where}: {stage.kind} has wheels over an image, which the Nix driver cannot lay there yet"
            raise HermeticError(Domain.RECIPE, "nix-wheels", message, hint="bring them in the image")
        entry = LockFile.read(lock_path(self.file)).images.get(image.reference)
        found: dict[str, Any] = {"kind": "image", "name": _repository(image), "python": image.python}
        if not image.digest:
            return {**found, "unresolved": self._unknown_image(image, entry, stage)}
        digests = {name: of.digest for name, of in sorted(entry.platforms.items())} if entry else {}
        found |= {"digests": digests or {"any": image.digest}}
        archives = self._archives(image, found)
        return {**found, **({"archives": archives} if archives else {})}

    def _archives(self, image: Image, found: dict[str, Any]) -> dict[str, str]:
        """By platform: those that are known of the same image, and this machine's if somebody is to be asked."""
        before = self.before.get("environments", {}).values()
        known: dict[str, str] = next((of.get("archives", {}) for of in before if found.items() <= of.items()), {})
        if self.archive is None or PLATFORM in known or parse_reference(image.reference).transport != "registry":
            return known
        return {**known, PLATFORM: self.archive(found["name"], image.digest, PLATFORM)}

    def _unknown_image(self, image: Image, entry: ImageEntry | None, stage: Stage) -> str:
        if entry is None or not entry.unresolved:
            message = f"{stage.where}: the image {image.reference!r} is not locked to a digest"
            raise HermeticError(Domain.RECIPE, "not-locked", message, hint=f"hermetic lock {self.file}")
        return self._nobody_knew(f"the image {image.reference!r}", entry.unresolved)

    def _harvest(self, stage: Stage) -> dict[str, Any] | None:
        if stage.harvest is None:
            return None
        if isinstance(stage.harvest.complete, Validator):
            message = f"{stage.where}: {stage.kind} is judged by a program, for which the Nix driver has no sandbox"
            raise HermeticError(Domain.RECIPE, "nix-validator", message, hint="use LogLine or KnownSizes")
        return stage.harvest.model_dump(mode="json")

    def _gpu(self, stage: Stage) -> dict[str, Any] | None:
        if stage.gpu is None:
            return None
        if not stage.gpu.declared:
            message = f"{stage.where}: {stage.kind} takes whatever GPU the machine has; Nix must know which"
            raise HermeticError(Domain.RECIPE, "nix-gpu", message, hint='Gpu("NVIDIA H200")')
        return dict(stage.gpu.identity())


def _files(item: FixedOutput) -> dict[str, Any]:
    files = {
        name: {"sha256": file.sha256, "size": file.size, "url": _address(item, path)}
        for name, (path, file) in item.wanted.items()
    }
    texts = {name: content.decode() for name, content in item.texts.items()}
    return {"name": item.name, "files": files, **({"texts": texts} if texts else {})}


def _address(item: FixedOutput, path: str) -> str:
    """Where Nix fetches a file from; "" where it has no fetcher (object stores, folders of addresses)."""
    assert item.entry is not None
    if item.uri.startswith("hf://"):
        repository = item.uri.removeprefix("hf://").partition("@")[0]
        return f"{_HUB}/{repository}/resolve/{item.entry.commit}/{quote(path)}"
    return item.uri if item.uri.startswith(("https://", "http://")) else ""


def _repository(image: Image) -> str:
    """The image's name without tag and digest; of a local one what the recipe wrote, never a path made of it."""
    found = parse_reference(image.reference)
    return found.pinned if found.transport == "registry" else image.reference


def _free(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "'"
    return name
