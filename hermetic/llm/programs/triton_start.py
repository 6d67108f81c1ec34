"""Starts the command line that it is given and ends it when told to: its standard input closing means "drain and go".

Standard library only. Exits as the command does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

_LOOK_S = 0.5  #: Seconds between two looks for processes of models.
_GRACE_S = 3.0
_MODEL = "triton_python_backend_stub"[:15]  #: As the kernel cuts names.


def main() -> int:
    with open("/build/stage.json", encoding="utf-8") as stream:
        command = json.load(stream)["parameters"]["command"]
    return follow(command, os.environ)


def follow(command: list[str], variables: Mapping[str, str]) -> int:
    """Run `command` until it ends, and tell every server in it to drain once standard input is closed.

    A model of the python backend whose process has died answers nothing any more, and Triton 2.51 still says that it is
    ready: then everything ends, for whoever starts it again.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables) as server:
        ended, models = os.pidfd_open(server.pid), dict[int, int]()
        ready: list[int] = []
        died = False
        while not (ready or died):
            died = _open_models(models)
            ready, _, _ = select.select([sys.stdin.fileno(), ended, *models.values()], [], [], 0 if died else _LOOK_S)
            died = died or any(one in ready for one in models.values())
        if died:  # of a model that cannot be loaded Triton says more in a moment
            ready, _, _ = select.select([sys.stdin.fileno(), ended], [], [], _GRACE_S)
        if died and ended not in ready:
            sys.stderr.write("the process of a model has died, so Triton is ended\n")
        for process in servers() if ended not in ready else ():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL if died else signal.SIGTERM)
        code = server.wait()
        return code if code >= 0 else 128 - code  # a signal, as shells tell it


def _open_models(models: dict[int, int]) -> bool:
    """Add descriptors of the models' processes to `models`, by number; whether one is dead that nobody has taken note
    of, as happens to one that has died since the look before.
    """
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stream:
                name, _, rest = stream.read().partition("(")[2].rpartition(")")
            if name == _MODEL and rest.split()[0] == "Z":
                return True
            if name == _MODEL and process not in models:
                models[process] = os.pidfd_open(process)
    return False


def servers() -> Iterator[int]:
    """Triton's processes, all of which are ours here: mpirun kills what it started a second after it is told to end."""
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.path.basename(os.readlink(f"/proc/{name}/exe")).startswith("tritonserver"):
                yield int(name)


if __name__ == "__main__":
    sys.exit(main())
