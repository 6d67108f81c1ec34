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


def main() -> int:
    with open("/build/stage.json", encoding="utf-8") as stream:
        command = json.load(stream)["parameters"]["command"]
    return follow(command, os.environ)


def follow(command: list[str], variables: Mapping[str, str]) -> int:
    """Run `command` until it ends, and tell every server in it to drain once standard input is closed."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables) as server:
        ended = os.pidfd_open(server.pid)
        ready, _, _ = select.select([sys.stdin.fileno(), ended], [], [])
        for process in servers() if ended not in ready else ():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        code = server.wait()
        return code if code >= 0 else 128 - code  # a signal, as shells tell it


def servers() -> Iterator[int]:
    """Triton's processes, all of which are ours here: mpirun kills what it started a second after it is told to end."""
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.path.basename(os.readlink(f"/proc/{name}/exe")).startswith("tritonserver"):
                yield int(name)


if __name__ == "__main__":
    sys.exit(main())
