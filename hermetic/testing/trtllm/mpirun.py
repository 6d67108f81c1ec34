"""A STAND-IN for Open MPI's ``mpirun``: starts copies of a command, each in a session of its own. No messages."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mpirun", allow_abbrev=False)
    parser.add_argument("-n", "-np", "--np", type=int, default=1, dest="ranks")
    parser.add_argument("--allow-run-as-root", action="store_true")
    parser.add_argument("--oversubscribe", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words[1:])
    started = [
        subprocess.Popen(
            options.command,
            start_new_session=True,
            env={**os.environ, "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(options.ranks)},
        )
        for rank in range(options.ranks)
    ]
    return max(abs(process.wait()) for process in started)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
