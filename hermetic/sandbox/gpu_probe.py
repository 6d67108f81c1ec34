"""Runs inside the sandbox before a stage with a GPU: what CUDA's driver sees there, as JSON on standard output.

Standard library only, no CUDA runtime, no torch. Makes no context, so it takes no GPU memory.
https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…


def main() -> None:
    try:
        json.dump(look(ctypes.CDLL("libcuda.so.1")), sys.stdout)
    except OSError as error:
        json.dump({"error": str(error)}, sys.stdout)


def look(cuda: Any) -> dict[str, Any]:
    """Every device that a program here would have, or the driver's own error."""
    code = cuda.cuInit(0)
    if code:
        return {"error": f"cuInit fails with {_name(cuda, code)}"}
    count, version = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    devices = [_device(cuda, number) for number in range(count.value)]
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "devices": devices}


def _device(cuda: Any, number: int) -> dict[str, Any]:
    handle, memory = ctypes.c_int(), ctypes.c_size_t()
    name, identity = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(handle), number)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    cuda.cuDeviceGetUuid_v2(identity, handle)
    return {
        "product": name.value.decode(),
        "memory": memory.value,
        "sm": f"{major.value}.{minor.value}",
        "uuid": str(uuid.UUID(bytes=identity.raw)),
    }


def _name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {code}"


if __name__ == "__main__":
    main()
