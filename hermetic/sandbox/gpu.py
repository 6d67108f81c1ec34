"""The GPUs of this machine, through NVML (`nvidia-ml-py`), else through ``nvidia-smi``, else none and why.

::

    Inventory       driver, CUDA version, why there is no GPU
    └── Device      what can be leased: a GPU, or an instance of one that is divided (MIG)
"""

from __future__ import annotations

import csv
import ctypes
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from hermetic.sandbox import gpu_driver

__all__ = ["TEST_INVENTORY", "Device", "Inventory", "discover"]

#: Names a JSON file that stands in for the machine's GPUs. Only tests set it (`hermetic.testing.gpu`).
TEST_INVENTORY: Final = "HERMETIC_TEST_GPUS"

_QUERY: Final = "index,uuid,name,memory.total,compute_cap,mig.mode.current,driver_version"


@dataclass(frozen=True, slots=True)
class Device:
    """`memory` is the driver's total in bytes, `sm` the compute capability, `minor` the N of ``/dev/nvidiaN``.

    `mig` is "enabled", "disabled" or "" where the GPU cannot be divided; an instance has the index of its GPU and
    `instance` as the numbers of GPU instance and compute instance.
    """

    index: int
    uuid: str
    product: str
    memory: int
    sm: str
    minor: int
    mig: str = ""
    instance: tuple[int, int] | None = None

    @property
    def memory_gib(self) -> int:
        """Whole GiB, rounded: the driver's total differs a little from version to version."""
        return round(self.memory / (1 << 30))

    def __str__(self) -> str:
        return f"{self.product} ({self.memory_gib} GiB, sm {self.sm})"


@dataclass(frozen=True, slots=True)
class Inventory:
    """`driver` is the kernel module's version, `cuda` the newest CUDA it serves; `reason` says why `devices` is empty.

    `source` is "nvml", "nvidia-smi", "stand-in" or "". `root` is where device nodes and libraries are looked for, "" on
    a real machine.
    """

    devices: tuple[Device, ...] = ()
    driver: str = ""
    cuda: str = ""
    reason: str = ""
    source: str = ""
    root: str = ""

    def facts(self) -> dict[str, Any]:
        return {"driver": self.driver, "cuda": self.cuda, "reason": self.reason, "source": self.source} | {
            "devices": [asdict(device) | {"memory_gib": device.memory_gib} for device in self.devices]
        }


def discover() -> Inventory:
    """What there is now; asked once a process, which takes about a tenth of a second where there is a driver."""
    return _discover(os.environ.get(TEST_INVENTORY, ""))


@functools.cache
def _discover(stand_in: str) -> Inventory:
    if stand_in:
        return _read(stand_in)
    if not os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/dxg"):
        return Inventory(reason="no NVIDIA driver is loaded, or its devices are not in this container (/dev/nvidiactl)")
    try:
        return _by_nvml()
    except ImportError:
        return _by_smi("nvidia-ml-py is not installed")
    except _NvmlFailed as error:
        return _by_smi(str(error))


class _NvmlFailed(Exception):  # noqa: N818  # reads as what happened
    """NVML is there and does not work; the message says how."""


def _by_nvml() -> Inventory:
    import pynvml  # noqa: PLC0415  # optional, and only stages with a GPU and the doctor need it

    library = gpu_driver.find("libnvidia-ml.so.1")
    with suppress(OSError):
        ctypes.CDLL(library or "", mode=ctypes.RTLD_GLOBAL)  # pynvml asks the loader, which knows loaded ones by name
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _NvmlFailed(f"NVML does not start: {error}") from error
    try:
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        devices = tuple(
            device
            for index in range(pynvml.nvmlDeviceGetCount())
            for device in _of_handle(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index), index)
        )
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        cuda = f"{version // 1000}.{version % 1000 // 10}"
        return Inventory(devices, driver, cuda, "" if devices else "the driver sees no GPU", "nvml")
    except pynvml.NVMLError as error:
        raise _NvmlFailed(f"NVML does not answer: {error}") from error
    finally:
        pynvml.nvmlShutdown()


def _of_handle(nvml: Any, handle: Any, index: int) -> Iterator[Device]:
    """A GPU, or the instances that it is divided into."""
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    whole = Device(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        product=_text(nvml.nvmlDeviceGetName(handle)),
        memory=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        sm=f"{major}.{minor}",
        minor=nvml.nvmlDeviceGetMinorNumber(handle),
        mig=_mig(nvml, handle),
    )
    if whole.mig != "enabled":
        yield whole
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError_NotFound:
            continue
        numbers = (nvml.nvmlDeviceGetGpuInstanceId(part), nvml.nvmlDeviceGetComputeInstanceId(part))
        memory = int(nvml.nvmlDeviceGetMemoryInfo(part).total)
        uuid, product = _text(nvml.nvmlDeviceGetUUID(part)), _text(nvml.nvmlDeviceGetName(part))
        yield replace(whole, uuid=uuid, product=product, memory=memory, instance=numbers)


def _mig(nvml: Any, handle: Any) -> str:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return ""
    return "enabled" if current else "disabled"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _by_smi(why: str) -> Inventory:
    """Without NVML; divided GPUs can't be told apart here and are left out."""
    tool = shutil.which("nvidia-smi", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/nvidia/bin:/usr/bin")
    if tool is None:
        return Inventory(reason=f"{why}, and there is no nvidia-smi")
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[:1] or ["nothing"]
        return Inventory(reason=f"{why}, and nvidia-smi says: {said[0]}")
    rows = list(csv.reader(done.stdout.splitlines(), skipinitialspace=True))
    devices = tuple(_of_row(row) for row in rows if row[5] != "Enabled")
    return Inventory(devices, rows[0][6] if rows else "", "", "" if devices else why, "nvidia-smi")


def _of_row(row: list[str]) -> Device:
    index, uuid, product, memory, sm, mig, _ = row
    mode = mig.lower() if mig in ("Enabled", "Disabled") else ""
    return Device(int(index), uuid, product, int(memory) << 20, sm, int(index), mode)


def _read(file: str) -> Inventory:
    with open(file, encoding="utf-8") as stream:
        given = json.load(stream)
    devices = []
    for item in given.pop("devices"):
        instance = item.pop("instance", None)
        devices.append(Device(**item, instance=tuple(instance) if instance else None))
    return Inventory(tuple(devices), **given, source="stand-in")
