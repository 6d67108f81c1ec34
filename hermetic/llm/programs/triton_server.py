"""Starts Triton inside the sandbox and ends it when told to: its standard input closing means "drain and go".

Standard library only. Exits as Triton does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `python -P` does not

from triton_start import follow

TRITON = Path("/build/env/wheels/pytriton/tritonserver")  # in the wheel nvidia-pytriton
LIBRARIES = "/build/env/wheels/nvidia_pytriton.libs"
TOOLS = Path("/build/tmp/tools")
BACKENDS = Path("/build/tmp/backends")
REPOSITORY = "/build/in/repository/repository"
SHELL = """\
import os, shlex, sys
first, *command = shlex.split(sys.argv[2])
if sys.argv[1] != "-c" or first != "exec":
    sys.exit(f"this is no shell: {sys.argv[1:]}")
os.execv(command[0], command)
"""


def main() -> int:
    with open("/build/stage.json", encoding="utf-8") as stream:
        asked = json.load(stream)["parameters"]
    _lay_out_backend(BACKENDS / "python")
    _write_shell(TOOLS)
    libraries = f"{LIBRARIES}:/build/env/system:/build/env/libpython"
    variables = os.environ | {"HWLOC_HIDE_ERRORS": "2"}  # OpenVINO's threads ask for /sys, which a sandbox has not
    variables |= {"LD_LIBRARY_PATH": libraries, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    return follow(_command(asked), variables)


def _lay_out_backend(folder: Path) -> None:
    """The python backend beside the stub for this very Python: the wheel has one for each version elsewhere."""
    folder.mkdir(parents=True)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = TRITON / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in (TRITON / "backends" / "python").glob("*.*"):
        (folder / file.name).symlink_to(file)
    shutil.copyfile(stub, folder / stub.name)  # the backend makes it executable, which a link into a wheel is not


def _write_shell(folder: Path) -> None:
    """The python backend starts its stubs as ``bash -c " exec STUB ARGUMENTS"``, and there is no shell here."""
    folder.mkdir()
    script = folder / "bash"
    script.write_text(f"#!{sys.executable} -ISB\n{SHELL}")
    script.chmod(0o755)


def _command(asked: dict[str, str | int]) -> list[str]:
    command = [str(TRITON / "bin" / "tritonserver"), f"--model-repository={REPOSITORY}"]
    command += [f"--backend-directory={BACKENDS}", "--disable-auto-complete-config"]
    command += ["--backend-config=python,shm-region-prefix-name=hermetic"]
    command += [f"--exit-timeout-secs={asked['drain_s']}"]
    for name in ("http", "grpc", "metrics"):
        command += [f"--{name}-address={asked['host']}", f"--{name}-port={asked[name]}"]
    return command


if __name__ == "__main__":
    sys.exit(main())
