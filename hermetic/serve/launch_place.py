"""Where Triton is started: what is there, and whether that is what the engine needs. All of it before the start."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hermetic.canonical import Value
from hermetic.errors import Domain, HermeticError
from hermetic.realise.gpus import fitting, granted
from hermetic.realise.launcher import Launcher, Program
from hermetic.recipe import Image
from hermetic.sandbox import images
from hermetic.sandbox.environments import EnvironmentMounts, Identity
from hermetic.sandbox.gpu import discover
from hermetic.sandbox.plan import Limits
from hermetic.serve.launch_command import Binary, Place, Settings, command
from hermetic.serve.launch_given import given
from hermetic.serve.launch_image import insist_on_cuda, insist_on_image, served_in
from hermetic.serve.launch_libpython import with_libpython
from hermetic.serve.triton_needs import insist_on_release, needs

if TYPE_CHECKING:
    from hermetic.serve.launch import Subject
    from hermetic.serve.triton_deployment import Deployment

__all__ = ["PROGRAMS", "Start", "placed", "program_files"]

PROGRAMS: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "llm", "programs")
_PATIENCE: Final = 120  # seconds for a look at what is there
_PROGRESS_S: Final = 10.0


@dataclass(frozen=True)
class Start:
    """What is run, in which environment: program files of which the first is started, and their parameters."""

    mounts: EnvironmentMounts
    programs: tuple[str, ...]
    parameters: Mapping[str, Value]


def program_files(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.path.join(PROGRAMS, name) for name in names}


@contextlib.asynccontextmanager
async def placed(
    subject: Subject, deployment: Deployment, launcher: Launcher, settings: Settings, tell: Callable[[str], None]
) -> AsyncIterator[Start]:
    """How `subject` is started. GPUs are leased until the end of it; waiting for one is told.

    Raises `HermeticError`: what `needs`, `given` and `granted` raise, environment/kind-not-here if there is no Triton
    for the engine, environment/no-backend if something is not in it, environment/release-mismatch, and what
    `insist_on_image` raises.
    """
    if deployment.kind == "openvino":
        yield await _locked(launcher, settings, Brought(tell))
        return
    who, place = f"engine {subject.name!r}", settings.place
    image = served_in(deployment.kind, subject.image, place)
    if image is None and not place.triton:
        raise _elsewhere(deployment)
    wanted = needs(subject.name, subject.engine, deployment, subject.known, place.gpu)
    if wanted.gpu is not None:
        fitting(wanted.gpu, who)  # before an image of 30 GB is brought
    if image is not None:
        insist_on_image(subject.name, image, wanted, discover().driver)
    launcher, mounts, binary, where = await _found(image, launcher, place, Brought(tell))
    if image is not None and wanted.gpu is not None:
        insist_on_cuda(image, mounts.variables, wanted.gpu, discover().driver)
    seen = await _look(launcher, mounts, binary, deployment)
    if seen["missing"]:
        message = f"{where} cannot serve an engine of the kind {deployment.kind}: it has no {seen['missing'][0]}"
        raise HermeticError(Domain.ENVIRONMENT, "no-backend", message, hint="NVIDIA's images tagged trtllm have it")
    insist_on_release(subject.name, wanted.release, seen["release"], where)

    async with granted(wanted.gpu, who, launcher, mounts, waiting(who, settings, tell)) as leased:
        line = command(deployment.processes, settings, settings.host, binary)
        yield Start(leased, ("triton_start.py",), {"command": list(line)})


def waiting(who: str, settings: Settings, tell: Callable[[str], None]) -> Callable[[str], None]:
    """What is done when `who` has to wait for GPUs: it is told, or refused (environment/no-room)."""

    def waits(what: str) -> None:
        if not settings.may_wait:
            message = f"there is no room for {who} beside what runs: it needs {what}"
            raise HermeticError(Domain.ENVIRONMENT, "no-room", message, hint="stop the server, and start it again")
        tell(f"{who} waits: it needs {what}")

    return waits


async def _locked(launcher: Launcher, settings: Settings, brought: Brought) -> Start:
    """The server of the lock, for engines that need no GPU."""
    environment = next(iter(launcher.identities))
    mounts = with_libpython(await launcher.environment(environment, brought), launcher.identities[environment])
    parameters = {"host": settings.host, "drain_s": settings.drain_s, **vars(settings.ports)}
    return Start(mounts, ("triton_server.py", "triton_start.py"), parameters)


async def _found(
    image: Image | None, launcher: Launcher, place: Place, brought: Brought
) -> tuple[Launcher, EnvironmentMounts, Binary, str]:
    """What can start programs there, the environment, what the server is called in it, and it in words."""
    if place.triton:
        mounts, binary = given(place.triton, place.backends, os.environ)
        return launcher, mounts, binary, f"the Triton {place.triton}"
    assert image is not None
    launcher = Launcher(launcher.run, {image: Identity(images.value(image))}, launcher.indexes, launcher.runtime)
    mounts = await launcher.environment(image, brought)
    return launcher, mounts, Binary(backends=place.backends), f"the image {images.pinned(image)}"


def _elsewhere(deployment: Deployment) -> HermeticError:
    message = f"engines of the kind {deployment.kind} need a Triton with TensorRT-LLM, which nothing names"
    hint = "--image NAME@sha256:... (or TRITON_IMAGE), or --triton /path/to/tritonserver"
    return HermeticError(Domain.ENVIRONMENT, "kind-not-here", message, hint=hint)


class Brought:
    """Tells now and then how much of what Triton runs in has come, if it was not here already."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._told = -math.inf

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if self._clock() - self._told >= _PROGRESS_S:
            self._told = self._clock()
            self._tell(f"bringing {what}: {done / 1e6:.0f}" + (f" of {total / 1e6:.0f} MB" if total else " MB"))


async def _look(
    launcher: Launcher, mounts: EnvironmentMounts, binary: Binary, deployment: Deployment
) -> dict[str, Any]:
    """What `triton_look.py` says."""
    said, complaint = bytearray(), bytearray()
    asked = {**vars(binary), "kind": deployment.kind, "ranks": deployment.processes}
    program = Program("triton-look", program_files(("triton_look.py",)), asked, {})
    log = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with launcher.run.workspace() as place:
            limits = Limits(wall_s=_PATIENCE)
            ended = await launcher.launch(
                program, mounts, str(place.path), limits, log=log, on_output=complaint.extend, on_answer=said.extend
            )
    finally:
        os.close(log)
    if not ended.ok:
        message = f"Python does not start where Triton is to: {complaint.decode(errors='replace').strip()[-300:]}"
        raise HermeticError(Domain.ENVIRONMENT, "no-backend", message)
    found: dict[str, Any] = json.loads(said)
    return found
