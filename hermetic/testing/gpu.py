"""A stand-in for a machine with NVIDIA GPUs, for tests without one. It computes nothing.

`stand_in_gpus` writes an inventory that `hermetic.sandbox.gpu` takes for the machine's, plain files for the device
nodes, and a shared library with the entry points of libcuda that hermetic's own probe calls, compiled from the C
below. What that library says it has is given separately, so that a machine can lie about itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from hermetic.sandbox.gpu import TEST_INVENTORY, Device

__all__ = ["H100", "H200", "stand_in_gpus"]

_UUID = "GPU-00000000-0000-4000-8000-{:012x}"
_RESERVED = 700 << 20  # bytes of memory that NVML counts and CUDA does not


def H100(index: int = 0) -> Device:  # noqa: N802  # the product's name
    """A device with the facts of a real one, read off it, and a made-up UUID."""
    return Device(index, _UUID.format(100 + index), "NVIDIA H100 80GB HBM3", 81559 << 20, "9.0", index, "disabled")


def H200(index: int = 0) -> Device:  # noqa: N802
    """As `H100`."""
    return Device(index, _UUID.format(200 + index), "NVIDIA H200", 143771 << 20, "9.0", index, "disabled")


def stand_in_gpus(folder: Path, devices: Sequence[Device], inside: Sequence[Device] | None = None) -> dict[str, str]:
    """Variables for the environment of a hermetic that is to believe in `devices`.

    `inside` is what libcuda finds in a sandbox if that differs. Needs a C compiler, unless a library was compiled in
    `folder` before.
    """
    (folder / "dev").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{device.minor}" for device in devices)):
        (folder / "dev" / name).write_text("a stand-in for a device file\n")
    libraries = folder / "usr/local/nvidia/lib64"
    libraries.mkdir(parents=True)
    _compile(libraries, devices if inside is None else inside)
    inventory = {"devices": [asdict(device) for device in devices], "driver": "580.159.04", "cuda": "13.0"}
    reason = "" if devices else "the stand-in has none"
    file = folder / "gpus.json"
    file.write_text(json.dumps(inventory | {"reason": reason, "root": str(folder)}))
    return {TEST_INVENTORY: str(file), "HERMETIC_GPU_LOCKS": str(folder / "locks")}


def _compile(folder: Path, devices: Sequence[Device]) -> None:
    source = folder / "libcuda.c"
    source.write_text(_SOURCE.format(count=len(devices), rows="".join(_row(device) for device in devices) or "{0}"))
    target = folder / "libcuda.so.1"
    compiler = shutil.which("cc") or "cc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)


def _row(device: Device) -> str:
    major, minor = device.sm.split(".")
    raw = UUID(device.uuid.partition("-")[2]).bytes
    text = "".join(f"\\x{byte:02x}" for byte in raw)
    return f'{{"{device.product}", {device.memory - _RESERVED}ull, {major}, {minor}, "{text}", {device.minor}}}, '


_SOURCE = """
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* A stand-in for NVIDIA's libcuda: enough to be asked what there is. */
static struct {{ const char *name; unsigned long long memory; int major, minor; const char *uuid; int file; }} all[] =
    {{ {rows} }};
static int found[64], count;
/* As the real one, it knows no GPU whose device file it cannot open. */
int cuInit(unsigned flags) {{
    char path[32];
    count = 0;
    for (int each = 0; each < {count}; each++) {{
        snprintf(path, sizeof path, "/dev/nvidia%d", all[each].file);
        int file = open(path, O_RDONLY);
        if (file >= 0) {{ close(file); found[count++] = each; }}
    }}
    return count ? 0 : 100;
}}
int cuDriverGetVersion(int *version) {{ *version = 13000; return 0; }}
int cuGetErrorName(int code, const char **name) {{ *name = "CUDA_ERROR_NO_DEVICE"; return 0; }}
int cuDeviceGet(int *device, int number) {{ *device = found[number]; return 0; }}
int cuDeviceGetAttribute(int *value, int which, int device) {{
    *value = which == 75 ? all[device].major : all[device].minor; return 0; }}
int cuDeviceGetCount(int *number) {{ *number = count; return 0; }}
int cuDeviceGetName(char *name, int size, int device) {{ strncpy(name, all[device].name, size); return 0; }}
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) {{ *bytes = all[device].memory; return 0; }}
int cuDeviceGetUuid_v2(char *uuid, int device) {{ memcpy(uuid, all[device].uuid, 16); return 0; }}
"""
