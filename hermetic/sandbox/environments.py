"""Environments as keys and as mounts: what identifies each, and how it comes into a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hermetic.errors import Domain, HermeticError
from hermetic.recipe.environments import Environment, Host, Image, PythonEnv
from hermetic.recipe.memo import Memo
from hermetic.sandbox import abi, host, image_wheels, images, python
from hermetic.sandbox.gpu_driver import GpuAccess
from hermetic.sandbox.plan import Mount

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.store import Run, Store

__all__ = ["EnvironmentMounts", "Identity", "identify", "materialise", "of_image", "planned"]


@dataclass(frozen=True)
class Identity:
    """`value` is the canonical dictionary that enters keys; `parts` is what `materialise` needs besides."""

    value: dict[str, Value]
    parts: python.Parts | None = None


@dataclass(frozen=True)
class EnvironmentMounts:
    """An environment as a `LaunchPlan` takes it. `python` starts the command line of a ``.py`` program.

    `root` is the root file system of an image, else None; `image` names it by its digest, as engines pull it. `gpu` are
    the GPUs that a stage was given.
    """

    mounts: tuple[Mount, ...]
    symlinks: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    python: tuple[str, ...] = ()
    root: str | None = None
    image: str = ""
    gpu: GpuAccess | None = None

    def argv(self, entry: str) -> tuple[str, ...]:
        """The command line of the program file `entry`.

        Raises `HermeticError` (recipe/no-interpreter) for a ``.py`` file where the environment names no Python.
        """
        program = f"{abi.PROGRAM}/{entry}"
        if not entry.endswith(".py"):
            return (program,)
        if not self.python:
            message = f"{entry} is a Python program, and its environment names no interpreter"
            hint = "use a PythonEnv, or Host(..., python=...) with an interpreter among its paths"
            raise HermeticError(Domain.RECIPE, "no-interpreter", message, hint=hint)
        return (*self.python, program)


def identify(environment: Environment, memo: Memo) -> Identity:
    """What identifies `environment` on this machine now. Nothing is built or fetched.

    Raises `HermeticError`: recipe/lock-… with the line for a bad wheel lock, recipe/host-path-… for a `Host`,
    recipe/not-locked for an `Image`, environment/…-interpreter.
    """
    if isinstance(environment, PythonEnv):
        parts = python.inspect(environment, memo)
        return Identity(python.value(parts), parts)
    if isinstance(environment, Image):
        return Identity(images.value(environment))
    if isinstance(environment, Host):
        return Identity(host.value(environment, memo))
    raise HermeticError(Domain.BUG, "unknown-environment", f"no sandbox knows {type(environment).__name__}")


async def materialise(
    environment: Environment,
    identity: Identity,
    run: Run,
    *,
    progress: python.Progress | None = None,
    indexes: Mapping[str, str] | None = None,
    runtime: str = "bwrap",
) -> EnvironmentMounts:
    """Bring `environment` into the store, unless it is there, and say how it is mounted.

    `progress` is told what is being made, its bytes so far and in all (None: unknown). `indexes` are named package
    indexes, of which "pypi" is the default one; `runtime` is what an image is unpacked in.

    Locks the environment's own keys; the caller holds the stage's at most.

    Raises `HermeticError`: hash/wheel-mismatch, hash/image-mismatch, environment/index-unreachable, environment/no-uv,
    environment/registry-…, environment/image-…, environment/no-umoci and what the store raises.
    """
    if identity.parts is not None:
        mounts = await python.materialise(identity.parts, run, run.store, progress, indexes or {})
        return _of_python(mounts, identity.parts)
    if isinstance(environment, Image):
        root = await images.materialise(environment, run, progress, runtime)
        return of_image(environment, root, await image_wheels.materialise(environment, run, progress, indexes or {}))
    if isinstance(environment, Host):
        return EnvironmentMounts(host.mounts(environment), python=host.command(environment))
    raise HermeticError(Domain.BUG, "unknown-environment", f"no sandbox knows {type(environment).__name__}")


def planned(environment: Environment, identity: Identity, store: Store) -> EnvironmentMounts:
    """What `materialise` will give. Nothing is built, fetched or looked for, so it need not be there."""
    if identity.parts is not None:
        mounts = python.planned(identity.parts, store)
        return _of_python(mounts, identity.parts)
    if isinstance(environment, Image):
        root = images.planned(str(store.root), environment)
        return of_image(environment, root, image_wheels.planned(environment, store))
    if isinstance(environment, Host):
        return EnvironmentMounts(host.mounts(environment), python=host.command(environment))
    raise HermeticError(Domain.BUG, "unknown-environment", f"no sandbox knows {type(environment).__name__}")


def _of_python(mounts: tuple[Mount, ...], parts: python.Parts) -> EnvironmentMounts:
    return EnvironmentMounts(mounts, python.symlinks(parts), python.VARIABLES, python.command(parts))


def of_image(image: Image, root: images.Root, wheels: tuple[Mount, ...] = ()) -> EnvironmentMounts:
    """The mounts of an image whose root file system lies at `root`."""
    return EnvironmentMounts(
        wheels,
        variables=image_wheels.variables(root.variables) if wheels else root.variables,
        python=images.command(image),
        root=root.path,
        image=images.pinned(image),
    )
