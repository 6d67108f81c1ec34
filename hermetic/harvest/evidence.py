"""What can be known of a stage's artefacts at one moment, as plain data. The judge sees nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Content", "Examination", "File", "Glance", "Outcome"]


class Outcome(str, Enum):
    """How a stage with a harvest ended. The value is what the attempt's record says."""

    EXITED = "exited"  #: by itself, with status 0 and everything whole
    HARVESTED = "harvested"  #: everything whole, but it had to be stopped, or exited with another status
    INCOMPLETE = "timed-out-incomplete"  #: stopped at a limit, and not everything was whole
    CRASHED = "crashed"  #: killed by a signal, out of memory, or exited with another status with something missing
    EMPTY = "exited-incomplete"  #: by itself, with status 0, and something is missing or not whole


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. `name` is relative to the folder of the artefacts; `changed` is its mtime in nanoseconds."""

    name: str
    device: int
    inode: int
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Glance:
    """What is cheap to see.

    `at` and `heard` (the last output) are monotonic seconds; `folder` is the artefacts' folder below ``/build``, ""
    if there is none yet; `missing` are globs that match nothing; `problem` says why no folder could be chosen;
    `lines` are the wall-clock times, in nanoseconds, at which end-of-write lines came.
    """

    at: float
    heard: float
    folder: str = ""
    files: tuple[File, ...] = ()
    missing: tuple[str, ...] = ()
    problem: str = ""
    lines: tuple[int, ...] = ()

    @property
    def signature(self) -> tuple[str, tuple[File, ...]]:
        """Equal as long as no artefact came, went or changed."""
        return self.folder, self.files


@dataclass(frozen=True, slots=True)
class Content:
    """What a file's own bytes say: `problem` if they say that it is not whole; `proven` if they prove its end.

    `document` is the JSON of ``config.json``; `hole` is where it has a size, but nothing was ever written. `blank`: its
    last bytes are zero, as those of a file that was filled before it is written.
    """

    problem: str = ""
    proven: bool = False
    document: Mapping[str, Any] | None = None
    hole: int | None = None
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything there is to know: `glance`, what is in the files, and who could still change them.

    `holders` and `hidden` are in words: who has an artefact open or mapped for writing, and which processes could not
    be looked into. `killed` says that a process died abnormally (a signal of its own, out of memory).
    """

    glance: Glance
    contents: Mapping[str, Content] = field(default_factory=dict)
    holders: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    killed: str = ""
