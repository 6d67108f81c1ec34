"""Makes a folder of wheels inside Nix's sandbox, as the other driver does: ``python -m hermetic.nix.installing``."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from hermetic.fetch import wheels
from hermetic.fetch.wheel_lock import Pin, WheelLock
from hermetic.sandbox import abi
from hermetic.sandbox.bytecode import compile_tree

__all__ = ["main"]

_WHEELS = f"{abi.ENV}/wheels"


def main() -> int:
    """The builder: ``$out`` becomes a folder with the wheels of the specification, for its interpreter."""
    with open(os.environ["specPath"], "rb") as stream:
        spec = json.load(stream)
    place, out = os.environ["NIX_BUILD_TOP"], os.environ["out"]
    folder = f"{place}/archives"
    os.mkdir(folder)
    for wheel in spec["wheels"]:
        os.symlink(wheel["path"], f"{folder}/{wheel['file']}")
    lock = WheelLock(tuple(sorted(Pin(w["name"], w["version"], "", (w["sha256"],)) for w in spec["wheels"])))
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder, "HOME": place}
    asyncio.run(_install(lock, out, spec["python"], f"{place}/scratch"))
    return 0


async def _install(lock: WheelLock, out: str, python: str, scratch: str) -> None:
    name = os.path.basename(python)
    shebang = f"{abi.ENV}/python/bin/{name}"
    await wheels.install(lock, out, python=python, scratch=scratch, shebang=shebang)
    await compile_tree(out, _WHEELS, python)


if __name__ == "__main__":
    sys.exit(main())
