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

_MODEL = "triton_python_backend_stub"[:15]  #: As the kernel cuts names.


def main() -> int:
    with open("/build/stage.json", encoding="utf-8") as stream:
        command = json.load(stream)["parameters"]["command"]
    return follow(command, os.environ)


def follow(command: list[str], variables: Mapping[str, str]) -> int:
    """Run `command` until it ends, and tell every server in it to drain once standard input is closed.

    A byte on standard input says that it is ready. From then on everything ends, for whoever starts it again, when the
    process of a model of the python backend dies: it answers nothing any more, and Triton 2.51 still says that it is
    ready. Before, processes come and go: Triton asks some of them what a model can do. A line says that it has begun.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables) as server:
        ended, stdin = os.pidfd_open(server.pid), sys.stdin.fileno()
        ready, _, _ = select.select([stdin, ended], [], [])
        while _is_ready(stdin, ended, ready):
            models = list(_models())
            sys.stderr.write(f"watched from here on: {len(models)} processes of models\n")
            ready, _, _ = select.select([stdin, ended, *models], [], [])
        died = not {stdin, ended} & set(ready)
        if died:
            sys.stderr.write("the process of a model has died, so Triton is ended\n")
        for process in servers() if ended not in ready else ():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL if died else signal.SIGTERM)
        code = server.wait()
        return code if code >= 0 else 128 - code  # a signal, as shells tell it


def _is_ready(stdin: int, ended: int, ready: list[int]) -> bool:
    """Whether that was said just now, and standard input not closed."""
    return stdin in ready and ended not in ready and os.read(stdin, 1) != b""


def _models() -> Iterator[int]:
    """Descriptors of the models' processes that live."""
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stream:
                name, _, rest = stream.read().partition("(")[2].rpartition(")")
            if name == _MODEL and rest.split()[0] != "Z":
                yield os.pidfd_open(process)


def servers() -> Iterator[int]:
    """Triton's processes, all of which are ours here: mpirun kills what it started a second after it is told to end."""
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.path.basename(os.readlink(f"/proc/{name}/exe")).startswith("tritonserver"):
                yield int(name)


if __name__ == "__main__":
    sys.exit(main())
