"""A STAND-IN for Open MPI's ``mpirun``: starts copies of commands, each in a session of its own. No messages.

As with the real one, commands are separated by ``:``, and one that fails takes the others along.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence


def main(words: Sequence[str]) -> int:
    commands = [command for part in parts(words[1:]) for command in commands_of(part)]
    started: dict[int, subprocess.Popen[bytes]] = {}
    for rank, command in enumerate(commands):
        ranks = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(len(commands))}
        process = subprocess.Popen(command, start_new_session=True, env={**os.environ, **ranks})
        started[process.pid] = process
    return followed(started)


def parts(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word == ":":
            yield part
            part = []
        else:
            part.append(word)
    yield part


def commands_of(words: list[str]) -> list[list[str]]:
    parser = argparse.ArgumentParser(prog="mpirun", allow_abbrev=False)
    parser.add_argument("-n", "-np", "--np", type=int, default=1, dest="ranks")
    parser.add_argument("--allow-run-as-root", action="store_true")
    parser.add_argument("--oversubscribe", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    return [options.command] * options.ranks


def followed(started: dict[int, subprocess.Popen[bytes]]) -> int:
    """The worst of their exit codes."""
    worst = 0
    while started:
        pid, status = os.wait()
        process = started.pop(pid, None)
        if process is None:
            continue
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code and not worst:
            for other in started.values():
                other.kill()
            worst = abs(code)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv))
