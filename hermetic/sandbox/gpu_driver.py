"""What of the NVIDIA driver comes into a sandbox: device nodes of the leased GPUs, and the driver's own libraries.

The libraries belong to the kernel module and change with it, so they are this machine's and no part of an
environment: they are bound read-only at one fixed place. Which there are is the "compute" and "utility" lists of
libnvidia-container (https://github.com/NVIDIA/libnvidia-container, src/nvc_info.c).
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hermetic.errors import Domain, HermeticError

if TYPE_CHECKING:
    from hermetic.sandbox.gpu import Device

__all__ = ["PLACE", "GpuAccess", "access", "find"]

#: Where the libraries are inside; `LD_LIBRARY_PATH` begins with it.
PLACE: Final = "/build/env/driver"

_NODES: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/dxg")
_LIBRARIES: Final = (
    "libcuda.so.1",
    "libcudadebugger.so.1",
    "libnvidia-ml.so.1",
    "libnvidia-cfg.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-allocator.so.1",
    "libdxcore.so",
)
# Opened by the others under their full names.
_VERSIONED: Final = re.compile(r"lib(nvidia-(gpucomp|pkcs11|pkcs11-openssl3|nvvm70)|nvdxgdmal)\.so(\.[0-9.]+)?")
_FOLDERS: Final = (
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
)


@dataclass(frozen=True, slots=True)
class GpuAccess:
    """Leased GPUs as a `LaunchPlan` takes them.

    `nodes` are device files, `libraries` pairs of a file here and its place inside, `visible` is
    ``CUDA_VISIBLE_DEVICES``; `cdi` are the GPUs' CDI names where this machine describes them; `seen` is what was found
    inside, for the build's record.
    """

    uuids: tuple[str, ...]
    nodes: tuple[str, ...]
    libraries: tuple[tuple[str, str], ...]
    visible: str
    cdi: tuple[str, ...] = ()
    seen: Mapping[str, Any] = field(default_factory=dict)

    def variables(self, given: str = "") -> dict[str, str]:
        """`given` is the stage's own ``LD_LIBRARY_PATH``. Triton looks for libcuda with ldconfig unless it is told."""
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": self.visible,
            "LD_LIBRARY_PATH": f"{PLACE}:{given}" if given else PLACE,
            "TRITON_LIBCUDA_PATH": PLACE,
        }


def access(devices: Sequence[Device], root: str = "") -> GpuAccess:
    """Everything that a sandbox needs to use `devices` and no other; `root` is "" but for tests.

    Raises `HermeticError` (environment/gpu-driver) if a device node or libcuda is not to be found.
    """
    nodes = [root + node for node in _NODES if os.path.exists(root + node)]
    for device in devices:
        nodes += [f"{root}/dev/nvidia{device.minor}"] if not os.path.exists(f"{root}/dev/dxg") else []
        nodes += [root + node for node in _capabilities(device, root)]
    missing = [node for node in nodes if not os.path.exists(node)]
    if missing:
        raise _no_driver(f"the device file {missing[0]} is missing", "nvidia-modprobe -c0 -u  # makes it")
    uuids = tuple(device.uuid for device in devices)
    # The same words on every machine; only the leased nodes are there. Of an instance, CUDA wants the name.
    visible = ",".join(device.uuid if device.instance else str(number) for number, device in enumerate(devices))
    return GpuAccess(uuids, tuple(dict.fromkeys(nodes)), tuple(_libraries(root)), visible, _cdi(uuids, root))


def _capabilities(device: Device, root: str) -> Iterator[str]:
    """The files that open an instance of a divided GPU; the kernel says which they are."""
    if device.instance is None:
        return
    gpu, compute = device.instance
    folder = f"{root}/proc/driver/nvidia/capabilities/gpu{device.minor}/mig/gi{gpu}"
    for file in (f"{folder}/access", f"{folder}/ci{compute}/access"):
        with open(file, encoding="ascii") as stream:
            minors = [line.split(":")[1].strip() for line in stream if line.startswith("DeviceFileMinor")]
        yield f"/dev/nvidia-caps/nvidia-cap{minors[0]}"


def _libraries(root: str) -> Iterator[tuple[str, str]]:
    cuda = find("libcuda.so.1", root)
    if not cuda:
        raise _no_driver("libcuda.so.1 is nowhere", "install the driver's libraries, of the version of its module")
    folder = os.path.dirname(cuda)
    for name in _LIBRARIES:
        found = f"{folder}/{name}"
        if os.path.exists(found):
            yield os.path.realpath(found), f"{PLACE}/{name}"
    yield os.path.realpath(cuda), f"{PLACE}/libcuda.so"  # what linkers ask for
    for name in sorted(os.listdir(folder)):
        if _VERSIONED.fullmatch(name):
            yield os.path.realpath(f"{folder}/{name}"), f"{PLACE}/{name}"


def find(name: str, root: str = "") -> str:
    """The path of one of the driver's libraries, or ""."""
    candidates = [] if root else [f"{folder}/{name}" for folder in _searched() if folder] + _cached(name)
    candidates += [f"{root}{folder}/{name}" for folder in _FOLDERS]
    return next((path for path in candidates if os.path.exists(path)), "")


def _searched() -> list[str]:
    return [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path.startswith("/")]


def _cached(name: str) -> list[str]:
    """Where the loader's cache has it, for this processor."""
    pattern = rf"^\s*{re.escape(name)} \(libc6,(?:x86-64|AArch64)[^)]*\) => (\S+)$"
    return re.findall(pattern, _cache(), re.MULTILINE)


@functools.cache
def _cache() -> str:
    try:
        return subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _cdi(uuids: tuple[str, ...], root: str) -> tuple[str, ...]:
    """CDI names, if a description on this machine has every one of these GPUs by its UUID."""
    text = ""
    for folder in (f"{root}/etc/cdi", f"{root}/var/run/cdi"):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as stream:
                text += stream.read()
    known = "nvidia.com/gpu" in text and all(re.search(rf"\b{re.escape(uuid)}\b", text) for uuid in uuids)
    return tuple(f"nvidia.com/gpu={uuid}" for uuid in uuids) if known else ()


def _no_driver(message: str, hint: str) -> HermeticError:
    return HermeticError(
        Domain.ENVIRONMENT, "gpu-driver", f"the NVIDIA driver is incomplete here: {message}", hint=hint
    )
