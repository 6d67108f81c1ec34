"""A stage on a fake clock with a fake process table: what a seed makes of writers, pauses, ranks, deaths and endings.

A `FakeStage` is a list of happenings in time. Between two looks of the session everything that is due happens; while
the stage is frozen nothing does, and what was due comes later by as long. It knows which files the tool has really
finished, which the session does not, so that a test can compare.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from hermetic.harvest.evidence import Content, Examination, File, Glance
from hermetic.harvest.session import Ended
from hermetic.recipe.harvest import Harvest, KnownSizes, LogLine, Validator

SETTLE = 2.0
WALL = 10_000.0
EPOCH = 1_700_000_000 * 10**9
LINE = r"Engine serialized\."


@dataclass
class Engine:
    """One file while it is written. `size` is what stat(2) says, `done` how much the tool has really written."""

    inode: int
    name: str
    final: int
    size: int = 0
    done: int = 0
    changed: float = 0.0
    open_by: int = 0
    mapped_by: int = 0
    exists: bool = False
    holes: bool = True  # what has a size, but was not written, shows as a hole

    @property
    def whole(self) -> bool:
        return self.exists and self.done == self.final == self.size and not self.open_by and not self.mapped_by


@dataclass(order=True)
class Happening:
    at: float
    number: int
    do: Callable[[], None] = field(compare=False)


class FakeStage:
    """Both the world of one seed and the `Site` that shows it to the session."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.ranks = self.random.choice((1, 1, 2, 3, 4))
        self.config: dict | None = None
        self.config_torn = False
        self.engines = {rank: self._engine(rank) for rank in range(self.ranks)}
        self.lines: list[int] = []
        self.heard = self.now
        self.last = self.now  # when something happened
        self.seen: object = None
        self.changed_at = self.now  # when an artefact came (a rename too) or changed
        self.ended: Ended | None = None
        self.ready_at: float | None = None  # when the last piece of evidence came
        self.freezes = 0
        self.frozen_since: float | None = None
        self.happenings: list[Happening] = []
        self.evidence = self.random.choice(("line", "line", "sizes", "validator"))
        self.fate = self.random.choice(FATES)
        self._write_story()

    @property
    def harvest(self) -> Harvest:
        sizes = {f"rank{rank}.engine": engine.final for rank, engine in self.engines.items()}
        complete = {"line": LogLine(LINE), "sizes": KnownSizes(sizes), "validator": Validator("load.py")}[self.evidence]
        return Harvest(artifacts=("config.json", "rank*.engine"), complete=complete, settle=str(SETTLE))

    @property
    def whole(self) -> bool:
        """What only the tool knows."""
        return self.config is not None and not self.config_torn and all(e.whole for e in self.engines.values())

    # --- the tool

    def _engine(self, rank: int) -> Engine:
        return Engine(20 + rank, f"rank{rank}.engine", self.random.randint(5, 10**9))

    def _pause(self) -> float:
        """Mostly short, often longer than the settle time, now and then much longer."""
        return self.random.choice((0.01, 0.3, SETTLE * 0.9, SETTLE * 1.1, SETTLE * 3, 60.0)) * self.random.random()

    def _write_story(self) -> None:
        begun = self.now + self._pause()
        self._at(begun, self._torn_config)
        written = begun + self._pause() * self.random.choice((0, 0, 1))
        self._at(written, self._whole_config)
        ends = []
        fated = self.random.randrange(self.ranks)
        at = written
        for rank, engine in self.engines.items():
            parallel = self.random.random() < 0.3
            kind = self.random.choice(WRITERS)
            stops = self.fate if rank == fated else "well"
            ends.append(kind(self, engine, begun if parallel else at, stops))
            at = max(at, ends[-1])
        self._finish(max(at, written))

    def _finish(self, at: float) -> None:
        """What the tool does when its writers are through, or one of them is not."""
        at += self._pause()
        if self.fate == "crashes":
            self._at(at, lambda: self._end(Ended(None, self.random.choice((6, 9, 11)))))
        elif self.fate in ("worker dies", "stalls"):
            if self.random.random() < 0.5:
                self._at(at + 1, lambda: self._end(Ended(self.random.choice((0, 1, 3)), None)))
        elif self.random.random() < 0.5:
            self._at(at, lambda: self._end(Ended(self.random.choice((0, 0, 1)), None)))

    def _torn_config(self) -> None:
        self.config_torn, self.config, self.config_changed = True, {}, self.now

    def _whole_config(self) -> None:
        mapping = {"world_size": self.ranks, "tp_size": self.ranks, "pp_size": 1}
        self.config_torn, self.config_changed = False, self.now
        self.config = {"pretrained_config": {"mapping": mapping}}

    def _end(self, ended: Ended) -> None:
        self.ended = ended
        for engine in self.engines.values():
            engine.open_by = engine.mapped_by = 0

    def say(self) -> None:
        self.lines.append(self._clock(self.now))
        self.heard = self.now

    def _at(self, at: float, do: Callable[[], None]) -> None:
        self.happenings.append(Happening(at, len(self.happenings), do))
        self.happenings.sort(reverse=True)

    def _clock(self, at: float) -> int:
        return EPOCH + round(at * 1e9)

    def _run_until(self, moment: float) -> None:
        """Let everything happen that is due; an ended stage does nothing any more."""
        while self.happenings and self.happenings[-1].at <= moment and self.ended is None:
            happening = self.happenings.pop()
            self.now = max(self.now, happening.at)
            happening.do()
            self.last = self.now
            if self._visible() != self.seen:
                self.seen, self.changed_at = self._visible(), self.now
            if self.ready_at is None and self.whole and (self.evidence != "line" or len(self.lines) >= self.ranks):
                self.ready_at = self.now
        self.now = max(self.now, moment)

    def _visible(self) -> object:
        return self.config, [(e.exists, e.size, e.changed) for e in self.engines.values() if e.exists]

    # --- the site

    def glance(self) -> Glance:
        if self.frozen_since is None:
            self._run_until(self.now)
        files = [File(e.name, 1, e.inode, e.size, self._clock(e.changed)) for e in self.engines.values() if e.exists]
        files += [File("config.json", 1, 9, 100, self._clock(self.config_changed))] if self.config is not None else []
        missing = (
            [] if any(e.name.endswith(".engine") and e.exists for e in self.engines.values()) else ["rank*.engine"]
        )
        missing += ["config.json"] if self.config is None else []
        return Glance(
            self.now,
            self.heard,
            "out" if files else "",
            tuple(sorted(files, key=lambda f: f.name)),
            tuple(missing),
            "",
            tuple(self.lines),
        )

    def examine(self, glance: Glance) -> Examination:
        contents = {e.name: self._content(e) for e in self.engines.values() if e.exists}
        if self.config is not None:
            problem = "is no whole JSON" if self.config_torn else ""
            contents["config.json"] = Content(problem, proven=not problem, document=self.config)
        holders = [f"{e.name}: open for writing" for e in self.engines.values() if e.open_by and e.exists]
        holders += [f"{e.name}: mapped writable" for e in self.engines.values() if e.mapped_by and e.exists]
        return Examination(glance, contents, tuple(holders) if self.ended is None else ())

    @staticmethod
    def _content(engine: Engine) -> Content:
        if engine.size == 0:
            return Content("is empty")
        if engine.done < 4 and engine.final >= 4:
            return Content("does not start with ftrt")
        torn = engine.done < engine.size
        blank = engine.size - engine.done >= 4  # the tail of a hole reads as zeros too
        return Content(hole=engine.done if engine.holes and torn else None, blank=blank)

    async def freeze(self, within: float) -> bool:
        self.freezes += 1
        took = self.random.random() * 0.02
        if self.random.random() < 0.1:  # something sleeps uninterruptibly
            self._run_until(self.now + within)
            return False
        self._run_until(self.now + took)
        if self.ended is not None:
            return False
        self.frozen_since = self.now
        return True

    def frozen(self) -> bool:
        return self.frozen_since is not None

    def thaw(self) -> None:
        assert self.frozen_since is not None
        idle = self.now - self.frozen_since
        self.happenings = [replace(happening, at=happening.at + idle) for happening in self.happenings]
        self.frozen_since = None

    async def validate(self, glance: Glance) -> str:
        self.now += 0.3
        return "" if self.whole else "the validator exited with status 1"

    async def wait(self, until: float) -> None:
        """Events come for half of what happens; the rest is seen by looking again."""
        if not self.happenings and self.now > self.last + 40:
            until = self.now + WALL  # nothing will ever happen again: the limit comes
        due = self.happenings[-1].at if self.happenings else until
        early = due if self.random.random() < 0.5 else until
        self._run_until(min(until, max(early, self.now)))
        if self.ended is not None:
            raise StageEnded

    # --- the end

    def kill(self) -> Ended:
        """SIGKILL. A frozen stage does nothing more; one that runs has got a little further."""
        if self.frozen_since is None:
            self._run_until(self.now + 0.05)
        if self.ended is None:
            self._end(Ended(None, 9, stopped=True))
        assert self.ended is not None
        return self.ended


class StageEnded(Exception):  # noqa: N818  # it is no error
    """The runner cancels the session when the stage ends by itself."""


FATES = ("well", "well", "well", "crashes", "worker dies", "stalls")
Writer = Callable[[FakeStage, Engine, float, str], float]


def _steps(stage: FakeStage, engine: Engine, at: float, stops: str) -> Iterator[tuple[float, int, bool]]:
    """Moment, bytes written by then, and whether this is the last the writer does."""
    count = stage.random.randint(1, 6)
    cuts = [*sorted(stage.random.randint(0, engine.final) for _ in range(count - 1)), engine.final]
    last = count if stops == "well" else stage.random.randint(0, count - 1)
    for number, cut in enumerate(cuts):
        at += stage._pause()
        if number == last:
            return
        yield at, cut, number == last - 1


def plain(
    stage: FakeStage, engine: Engine, at: float, stops: str, *, opens: str = "open_by", full: bool = False
) -> float:
    """open, write, write, close. With `full` the size is there from the start."""
    pid = 1000 + engine.inode

    def begin() -> None:
        engine.exists, engine.changed = True, stage.now
        engine.size = engine.final if full else 0
        setattr(engine, opens, pid)

    def write(cut: int) -> None:
        engine.done, engine.changed = cut, stage.now
        engine.size = engine.final if full else cut

    stage._at(at, begin)
    for moment, cut, _ in _steps(stage, engine, at, stops):
        at = moment
        stage._at(at, lambda cut=cut: write(cut))
    if stops == "stalls":
        return at  # it holds the file as long as it lives
    at += stage._pause()
    stage._at(at, lambda: setattr(engine, opens, 0))
    if stops != "well":
        return at
    at += stage.random.random() * 0.5
    stage._at(at, stage.say)
    return at


def preallocated(stage: FakeStage, engine: Engine, at: float, stops: str) -> float:
    return plain(stage, engine, at, stops, full=True)


def mapped(stage: FakeStage, engine: Engine, at: float, stops: str) -> float:
    return plain(stage, engine, at, stops, opens="mapped_by", full=True)


def overwritten(stage: FakeStage, engine: Engine, at: float, stops: str) -> float:
    """Zeros first, then the engine over them: if it dies unseen, only what is left of the zeros tells of it."""
    engine.holes = False
    return plain(stage, engine, at, stops, full=True)


def reopening(stage: FakeStage, engine: Engine, at: float, stops: str) -> float:
    """Each write in an open and close of its own, so that between two nobody holds the file."""

    def write(cut: int) -> None:
        engine.exists, engine.done, engine.size, engine.changed = True, cut, cut, stage.now

    for moment, cut, _ in _steps(stage, engine, at, stops):
        at = moment
        stage._at(at, lambda cut=cut: write(cut))
    if stops == "well":
        at += stage.random.random() * 0.5
        stage._at(at, stage.say)
    return at


def renamed(stage: FakeStage, engine: Engine, at: float, stops: str) -> float:
    """Under another name until it is whole; the line comes before the rename or after it."""
    at += stage._pause() * 3
    if stops != "well":
        return at
    line, rename = at + stage.random.random(), at + stage.random.random() + stage._pause()

    def appear() -> None:
        engine.exists, engine.done, engine.size = True, engine.final, engine.final

    stage._at(at, lambda: setattr(engine, "changed", stage.now))
    stage._at(line, stage.say)
    stage._at(rename, appear)
    return max(line, rename)


WRITERS: tuple[Writer, ...] = (plain, plain, preallocated, overwritten, mapped, reopening, renamed)
