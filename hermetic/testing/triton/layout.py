"""Lays out a real Triton, that of the wheels `nvidia-pytriton`, with a STAND-IN for TensorRT-LLM's backend.

As a folder of this machine, or as an OCI image; the wheels are those of ``triton-openvino.txt``, installed in one
folder as a `PythonEnv` has them.
"""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import interpreter
from hermetic.sandbox.gpu_driver import PLACE
from hermetic.serve.launch_libpython import find_libpython
from hermetic.serve.launch_place import PROGRAMS
from hermetic.testing.trtllm.image import File, StandinImage, build_image

__all__ = ["StandinTriton", "build_triton_image", "lay_out_triton"]

_HERE: Final = Path(__file__).parent
_MPIRUN: Final = _HERE.parent / "trtllm" / "mpirun.py"
#: What models of the python backend import here.
_PACKAGES: Final = ("numpy", "numpy.libs", "tokenizers")
#: CUDA's real runtime, which the real Triton is linked with, fails with the driver of `hermetic.testing.gpu`, and does
#: well without any.
_WITHOUT_DRIVER: Final = f"""#!/usr/bin/env python3
import os, sys
folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
os.environ["LD_LIBRARY_PATH"] = ":".join(folder for folder in folders if folder != {PLACE!r})
server = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/libexec/tritonserver"
os.execv(server, [server, *sys.argv[1:]])
"""


@dataclass(frozen=True)
class StandinTriton:
    """A folder with a tritonserver; `site` belongs on the ``PYTHONPATH`` of whoever starts hermetic with it."""

    program: Path
    backends: Path
    site: Path


def lay_out_triton(folder: Path, wheels: Path, version: str = "1.2.1") -> StandinTriton:
    """In the empty `folder`: ``bin/``, ``backends/``, ``lib/`` and ``site/``, 250 MB of copies. TensorRT-LLM there
    is said to be of `version`. Its models run in the machine's own python3.

    Raises `HermeticError`: environment/unsupported-interpreter, environment/no-libpython.
    """
    python = interpreter.describe(shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or "python3")
    if python.minor != interpreter.describe("").minor:
        message = f"the wheels are not for the python3 of this machine's programs, which is {python.version}"
        raise HermeticError(Domain.ENVIRONMENT, "unsupported-interpreter", message)
    folder.chmod(0o755)  # who starts it as root shows it to another user
    for name, content, executable in (*_triton(wheels, python), *_site(wheels, version, "site")):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())
        place.chmod(0o755 if executable else 0o644)
    return StandinTriton(folder / "bin/tritonserver", folder / "backends", folder / "site")


def build_triton_image(folder: Path, wheels: Path, version: str = "1.2.1") -> StandinImage:
    """An OCI layout in `folder`: the image of the STAND-IN for TensorRT-LLM, with a Triton in /opt/tritonserver."""
    found = interpreter.describe("")
    files = [(f"opt/tritonserver/{name}", content, executable) for name, content, executable in _triton(wheels, found)]
    files += _site(wheels, version, f"usr/{found.inside}/site-packages")
    shell = runpy.run_path(f"{PROGRAMS}/triton_server.py")["SHELL"]
    files.append(("usr/bin/bash", f"#!/usr/bin/python3 -ISB\n{shell}".encode(), True))
    variables = {"LD_LIBRARY_PATH": "/opt/tritonserver/lib", "PATH": "/opt/tritonserver/bin:/usr/local/bin:/usr/bin"}
    return build_image(folder, version, files=files, variables=variables)


def _triton(wheels: Path, python: interpreter.Interpreter) -> Iterator[File]:
    """The server, its libraries and its backends."""
    server = wheels / "pytriton" / "tritonserver"
    yield "bin/tritonserver", _WITHOUT_DRIVER.encode(), True
    yield "libexec/tritonserver", server / "bin" / "tritonserver", True
    for path in (wheels / "nvidia_pytriton.libs").iterdir():
        yield f"lib/{path.name}", path, False
    yield f"lib/libpython{python.minor}.so.1.0", _libpython(python), False
    for path in (server / "backends" / "python").glob("*.*"):
        yield f"backends/python/{path.name}", path, False
    stub = "triton_python_backend_stub"
    yield f"backends/python/{stub}", server / "python_backend_stubs" / python.minor / stub, True
    yield "backends/tensorrtllm/model.py", _HERE / "backend_model.py", False
    yield "bin/mpirun", f"#!/usr/bin/env python3\n{_MPIRUN.read_text(encoding='utf-8')}".encode(), True


def _libpython(python: interpreter.Interpreter) -> Path:
    found = find_libpython(python.executable, f"libpython{python.minor}.so.1.0")
    if not found:
        message = f"libpython{python.minor} is not there, which Triton's python backend needs"
        raise HermeticError(Domain.ENVIRONMENT, "no-libpython", message)
    return Path(found)


def _site(wheels: Path, version: str, place: str) -> Iterator[File]:
    """Packages, and what says which TensorRT-LLM is there."""
    for name in _PACKAGES:
        files = (path for path in (wheels / name).rglob("*") if path.is_file() and path.suffix != ".pyc")
        yield from ((f"{place}/{path.relative_to(wheels)}", path, False) for path in files)
    said = f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n"
    yield f"{place}/tensorrt_llm-{version}.dist-info/METADATA", said.encode(), False
