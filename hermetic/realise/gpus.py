"""GPUs for stages: what of them enters keys, their lease, and a look from inside before the stage's program starts."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from hermetic.canonical import Value
from hermetic.errors import Domain, HermeticError
from hermetic.realise.launcher import Launcher, Program
from hermetic.recipe.gpu import Gpu
from hermetic.sandbox import gpu_driver, gpu_lease, gpu_probe
from hermetic.sandbox.environments import EnvironmentMounts
from hermetic.sandbox.gpu import Device, Inventory, discover
from hermetic.sandbox.gpu_driver import GpuAccess
from hermetic.sandbox.plan import Limits

__all__ = ["fitting", "granted", "identity", "insist", "planned"]

_POLL: Final = 0.1  # seconds between two looks at GPUs that other processes use
_PATIENCE: Final = 120  # seconds; a first cuInit without persistence mode takes some
#: CUDA keeps a little of what the driver counts for itself: 0.4 % of an H200's memory.
_LESS: Final = 0.04


def identity(gpu: Gpu) -> dict[str, Value]:
    """What enters a key. Raises `HermeticError` (environment/gpu-missing) if this machine must say it, and can't."""
    return _resolved(gpu).identity()


def planned(gpu: Gpu) -> GpuAccess | None:
    """What a stage would get of this machine if all of it were free; None where it has no such GPU."""
    try:
        devices = fitting(_resolved(gpu), "")
    except HermeticError:
        return None
    return gpu_driver.access(devices[: gpu.count], discover().root)


def insist(gpu: Gpu, who: str) -> None:
    """Raises `HermeticError` (environment/gpu-missing, environment/gpu-mismatch) if this machine has no such GPU."""
    fitting(_resolved(gpu), who)


@asynccontextmanager
async def granted(
    gpu: Gpu | None, who: str, launcher: Launcher, mounts: EnvironmentMounts, waiting: Callable[[str], None]
) -> AsyncIterator[EnvironmentMounts]:
    """`mounts` with the GPUs that `who` asks for ("stage 'engine'"), which are nobody else's meanwhile.

    Waits for free ones, and says so once through `waiting`. Raises `HermeticError`: environment/gpu-missing,
    environment/gpu-mismatch if there are others than the key says, outside or inside, environment/gpu-driver.
    """
    if gpu is None:
        yield mounts
        return
    gpu = _resolved(gpu)
    lease = await _lease(gpu, fitting(gpu, who), waiting)
    try:
        found = gpu_driver.access(lease.devices, discover().root)
        seen = await _look_inside(launcher, replace(mounts, gpu=found))
        _compare(gpu, who, seen, found.uuids)
        yield replace(mounts, gpu=replace(found, seen=_record(seen, discover())))
    finally:
        lease.release()


def fitting(gpu: Gpu, who: str) -> list[Device]:
    """The GPUs of this machine that `gpu` names, free or not; at least as many as it asks for."""
    inventory = discover()
    found = [device for device in inventory.devices if _fits(gpu, device)]
    if len(found) >= gpu.count:
        return found
    if not inventory.devices:
        message = f"{who} needs {gpu}, and this machine has no GPU: {inventory.reason}"
        raise HermeticError(Domain.ENVIRONMENT, "gpu-missing", message, hint=f"run it on a machine with {gpu}")
    there = ", ".join(str(device) for device in inventory.devices)
    raise _mismatch(who, gpu, f"this machine has {there}")


def _resolved(gpu: Gpu) -> Gpu:
    if gpu.declared:
        return gpu
    inventory = discover()
    if not inventory.devices:
        message = f"a stage leaves open which GPU it is for, and this machine has none: {inventory.reason}"
        hint = 'declare it, Gpu("NVIDIA H200") for example; keys can then be computed anywhere'
        raise HermeticError(Domain.ENVIRONMENT, "gpu-missing", message, hint=hint)
    first = inventory.devices[0]
    return gpu.model_copy(update={"product": first.product, "memory_gib": first.memory_gib, "sm": first.sm})


def _fits(gpu: Gpu, device: Device) -> bool:
    if device.sm != gpu.sm or device.memory_gib < gpu.at_least_gib:
        return False
    return bool(gpu.portable) or (device.product, device.memory_gib) == (gpu.product, gpu.memory_gib)


async def _lease(gpu: Gpu, candidates: list[Device], waiting: Callable[[str], None]) -> gpu_lease.Lease:
    told = False
    while (found := gpu_lease.lease(candidates, gpu.count)) is None:
        if not told:
            waiting(f"{gpu}; {len(candidates)} here, in use by other stages")
            told = True
        await asyncio.sleep(_POLL)
    return found


async def _look_inside(launcher: Launcher, mounts: EnvironmentMounts) -> dict[str, Any]:
    said = bytearray()
    program = Program("gpu-probe", {"gpu_probe.py": gpu_probe.__file__}, {}, {})
    log = os.memfd_create("gpu-probe", os.MFD_CLOEXEC)
    try:
        with launcher.run.workspace() as place:
            limits = Limits(wall_s=_PATIENCE)
            ended = await launcher.launch(program, mounts, str(place.path), limits, log=log, on_answer=said.extend)
        os.lseek(log, 0, os.SEEK_SET)
        complaint = os.read(log, 65536).decode(errors="replace").strip()[-300:]
    finally:
        os.close(log)
    if not ended.ok:
        return {"error": complaint or "the look at it was killed"}
    found: dict[str, Any] = json.loads(said)
    return found


def _compare(gpu: Gpu, who: str, seen: Mapping[str, Any], leased: tuple[str, ...]) -> None:
    if "error" in seen:
        message = f"the GPU of {who} cannot be used inside its sandbox: {seen['error']}"
        raise HermeticError(Domain.ENVIRONMENT, "gpu-driver", message, hint="hermetic doctor")
    devices = seen["devices"]
    others = {item["uuid"] for item in devices} ^ {uuid.partition("-")[2] for uuid in leased}
    if others or not all(_is(gpu, item) for item in devices):
        there = ", ".join(f"{item['product']} ({item['memory'] >> 20} MiB, sm {item['sm']})" for item in devices)
        raise _mismatch(who, gpu, f"inside its sandbox there is {there or 'none'}")


def _is(gpu: Gpu, item: Mapping[str, Any]) -> bool:
    if item["sm"] != gpu.sm:
        return False
    share = item["memory"] / (gpu.memory_gib << 30) if gpu.memory_gib else 1
    return bool(gpu.portable) or (item["product"] == gpu.product and abs(1 - share) <= _LESS)


def _mismatch(who: str, gpu: Gpu, there: str) -> HermeticError:
    message = f"{who} is declared for {gpu}, but {there}"
    hint = "run it where that GPU is, or declare another one, which makes another key"
    return HermeticError(Domain.ENVIRONMENT, "gpu-mismatch", message, hint=hint)


def _record(seen: Mapping[str, Any], inventory: Inventory) -> dict[str, Any]:
    return {**seen, "driver": inventory.driver}
