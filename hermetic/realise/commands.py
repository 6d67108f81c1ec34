"""What would run, as a script to paste: for each stage its workspace, and the command of every runtime.

The runtimes are alternatives: the first to be run makes the output, in ``out`` of the workspace.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace

from hermetic.canonical import encode
from hermetic.derivation import Derivation, FixedInput, Graph, Input, SourceInput
from hermetic.digest import Key
from hermetic.realise import gpus
from hermetic.realise.evaluated import Evaluated
from hermetic.realise.launcher import Program, description, plan_of
from hermetic.realise.limits import limits_of
from hermetic.sandbox import abi, environments, launch
from hermetic.sandbox.plan import LaunchPlan
from hermetic.store import Store

__all__ = ["script"]


def script(evaluated: Evaluated, keys: list[Key], store: Store) -> Iterator[str]:
    """Lines of a shell script for the stages `keys`, worked out from recipe and lock file alone.

    The command of bubblewrap lacks only the system call filter, which comes over a descriptor.
    """
    for key in keys:
        derivation = evaluated.graph[key]
        if derivation.fixed is None:  # the driver fetches by itself
            yield from _stage(derivation, evaluated, store)
            yield ""


def _stage(derivation: Derivation, evaluated: Evaluated, store: Store) -> Iterator[str]:
    stage = derivation.stage
    place = os.path.join("/tmp", f"hermetic-{derivation.name}")  # noqa: S108  # shown, not used
    inputs = {role: _place_of(item, evaluated.graph, store) for role, item in derivation.inputs.items()}
    program = Program(derivation.name, stage.program_files(), stage.parameters_in_full(), inputs)
    mounts = environments.planned(stage.environment, evaluated.identities[stage.environment], store)
    if stage.gpu is not None:
        mounts = replace(mounts, gpu=gpus.planned(stage.gpu))
    plan = _masked(plan_of(program, mounts, place, limits_of(stage)))
    yield f"# {derivation.name}: {store.path(derivation.key, derivation.name)}"
    if stage.gpu is not None:
        where = "" if mounts.gpu is not None else ", which this machine has not; the commands lack its devices"
        yield f"# needs {stage.gpu}{where}"
    yield from _workspace(place, program)
    yield from _runtimes(plan)


def _masked(plan: LaunchPlan) -> LaunchPlan:
    return replace(plan, masked=tuple(path for path in plan.masked if os.path.lexists(path)))


def _place_of(item: Input, graph: Graph, store: Store) -> str:
    if isinstance(item, SourceInput):
        return item.source.path
    path = str(store.path(item.key, graph[item.key].name))
    return item.place(path) if isinstance(item, FixedInput) else path


def _workspace(place: str, program: Program) -> Iterator[str]:
    folders = " ".join(shlex.quote(f"{place}/{name}") for name in ("in", "program", "etc", *abi.WORKSPACE_WRITABLE))
    yield f"mkdir -p {folders}"
    for name, path in program.files.items():
        yield _copy(path, f"{place}/program/{name}")
    for role, path in program.inputs.items():
        yield _copy(path, f"{place}/in/{role}")
    roles = {role: f"{abi.IN}/{role}" for role in program.inputs}
    yield f"printf %s {shlex.quote(encode(description(program, roles)).decode())} > {shlex.quote(place)}/stage.json"
    for name, text in abi.ETC.items():
        yield f"printf %s {shlex.quote(text)} > {shlex.quote(place)}/etc/{name}"


def _copy(source: str, target: str) -> str:
    return f"cp -rT {shlex.quote(source)} {shlex.quote(target)}"


def _runtimes(plan: LaunchPlan) -> Iterator[str]:
    yield "# bubblewrap"
    yield _joined("bwrap", plan.bwrap_args()) + _redirections(plan)
    yield "# podman" + (f", from {plan.image} as hermetic unpacks it" if plan.image else "")
    ids = (launch.BUILD_UID, launch.BUILD_GID) if launch.drops_privileges() else None
    if ids is not None:
        yield _give(plan, *ids)
    yield _joined("podman", plan.podman_args(ids=ids))
    if plan.image:
        yield "# docker, which brings the image itself"
        yield _give(plan, abi.UID, abi.GID)
        yield _joined("docker", plan.docker_args())


def _give(plan: LaunchPlan, user: int, group: int) -> str:
    """The folders that the stage writes to, to who it is outside."""
    folders = " ".join(shlex.quote(f"{plan.workspace}/{name}") for name in abi.WORKSPACE_WRITABLE)
    return f"chown {user}:{group} {folders}"


def _redirections(plan: LaunchPlan) -> str:
    """The files that bubblewrap reads from descriptors; see `LaunchPlan.bwrap_args`."""
    words = []
    for number, file in enumerate(plan.inline(), 10):
        origin = f"{plan.workspace}/etc/{os.path.basename(file.target)}" if file.target.startswith("/etc/") else ""
        text = shlex.quote(file.content.decode())
        words.append(f" {number}<{shlex.quote(origin)}" if origin else f" {number}< <(printf %s {text})")
    return "".join(words)


def _joined(tool: str, words: list[str]) -> str:
    return shlex.join([tool, *words])
