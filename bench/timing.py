"""Wall time and peak memory of whole commands, by ``wait4``."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Command", "Failed", "Sample", "interleaved", "once"]


@dataclass(frozen=True)
class Command:
    """What is run, where, and with which variables besides the ones of the bench."""

    arguments: Sequence[str]
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One run: seconds from before the start to after the end, and the peak resident memory of its processes.

    `cpu` are the seconds of processor time that it and what it waited for took, which other work hardly changes.
    """

    seconds: float
    peak_mb: float
    stdout: str = ""
    cpu: float = 0.0


class Failed(Exception):  # noqa: N818  # a finding, shown in the table
    """A measured command exited non-zero."""


def once(command: Command) -> Sample:
    """Runs it. Raises `Failed` with its last words."""
    with subprocess.Popen(
        list(command.arguments),
        cwd=command.cwd,
        env={**os.environ, **command.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        start = time.perf_counter()
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{command.arguments[0]} exited {process.returncode}: {said[-2000:]}")
    return Sample(seconds, usage.ru_maxrss / 1024, said, usage.ru_utime + usage.ru_stime)


def interleaved(commands: Mapping[str, Command], runs: int) -> dict[str, list[Sample]]:
    """`runs` samples of each, taken in turn so that a slow spell of the machine meets all; one more first, to warm."""
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            sample = once(command)
            if turn:
                samples[name].append(sample)
    return samples
