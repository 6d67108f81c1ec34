"""Power losses on real file systems: ``python tests/power/power_torture.py --seed 1 --minutes 30`` as root.

Each round lets drivers work on a file system whose disk writes down every write and flush, then cuts the power at
seeded places of that log: after sync points and anywhere between. What the disk had not flushed by then it kept all of,
nothing of, or at random write by write or sector by sector. Every such image is mounted, which recovers the file
system, and judged as the next boot would meet it (`power_judge.py`). Then one of the images, as it was before anybody
looked, is what the next round goes on with, so recoveries are cut off too.

The report is JSON on stdout; the exit status is 1 if there was a violation. Which actions, kills and cuts there are
follows from the seed; when the kernel writes what is the machine's. So on a violation the disk and its log are kept,
and ``--again FOLDER`` makes the very same crash again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "torture")]

import power_machine as machine  # noqa: E402  # found through the line above
from power_claims import Claims  # noqa: E402
from power_log import FATES, Images, Log, copy  # noqa: E402
from torture import ACTIONS, sync_points  # noqa: E402

FIRST_BOOT, ROUNDS_A_DISK = 1, 5
BREAKAGES = ("no", "end-of-run-sync", "link-sync", "marker")


@dataclass
class Report:
    """What happened, in numbers. A fault is a power loss; `killed` are drivers that were killed before one."""

    seed: int
    kinds: list[str]
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    faults_by_fate: Counter[str] = field(default_factory=Counter)
    faults_by_point: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    writes: int = 0
    flushes: int = 0
    promises_checked: int = 0
    records: int = 0
    doubted: int = 0
    broken: int = 0
    violations: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return bool(self.violations or self.unexpected)

    def as_json(self) -> str:
        return json.dumps(self.__dict__, indent=1, sort_keys=True)


@dataclass
class Cut:
    """Where the power goes: after `position` entries of the log."""

    position: int
    fate: str
    seed: str
    point: str = ""


@dataclass
class Disk:
    """One file system through its boots."""

    kind: str
    folder: Path
    boot: int = FIRST_BOOT
    rounds: int = 0
    claims: Claims = field(default_factory=Claims)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boot}"


class Torture:
    def __init__(
        self, seed: int, place: Path, kinds: list[str], *, drivers: int, cuts: int, broken: str, actions: list[str]
    ) -> None:
        self.random = random.Random(seed)
        self.place = place
        self.mount, self.fuse = place / "mounted", place / "disk"
        self.drivers, self.cuts, self.broken = drivers, cuts, broken
        self.actions = actions
        self.points = sync_points()
        self.report = Report(seed, kinds)
        self.disks: dict[str, Disk] = {}
        for folder in (self.mount, self.fuse):
            folder.mkdir()

    def round(self, kind: str) -> None:
        """Let drivers work, cut the power at several places, judge, and go on after one of the cuts."""
        disk = self.disk(kind)
        copy(disk.base, disk.folder / "now")
        log = self.record(disk)
        try:
            self.report.rounds += 1
            self.judge_all(disk, log)
        finally:
            log.close()

    def disk(self, kind: str) -> Disk:
        disk = self.disks.get(kind)
        if disk is None or disk.rounds == ROUNDS_A_DISK:
            folder = self.place / kind
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            disk = self.disks[kind] = Disk(kind, folder)
            machine.make(kind, disk.base)
        disk.rounds += 1
        return disk

    def record(self, disk: Disk) -> Log:
        path = disk.folder / "log"
        path.unlink(missing_ok=True)
        with (
            machine.recorded(disk.folder / "now", path, self.fuse) as marks,
            machine.mounted(disk.kind, self.fuse / "disk", self.mount),
        ):
            self.work(disk, marks)
        return Log(path)

    def work(self, disk: Disk, marks: Path) -> None:
        (self.mount / "links").mkdir(exist_ok=True)
        started = [self.start(disk, marks) for _ in range(self.drivers)]
        for process, doomed in started:
            _, said = process.communicate(timeout=120)
            if process.returncode == -9 and doomed:
                self.report.killed += 1
                self.note(marks, do="dead", pid=process.pid)
            elif process.returncode:
                self.report.unexpected.append(said[-2000:])

    def start(self, disk: Disk, marks: Path) -> tuple[subprocess.Popen[str], bool]:
        weights = [ACTIONS[action] for action in self.actions]
        # The first of all finds an empty store.
        actions = ["build", *self.random.choices(self.actions, weights, k=self.random.randint(3, 6))]
        self.report.actions.update(actions)
        point = self.random.choice(self.points) if self.random.random() < 0.4 else ""
        sync = f"{point}#{self.random.choice((1, 1, 2, 3))}:kill" if point else ""
        command = [
            sys.executable, str(machine.HERE / "power_driver.py"), str(self.mount), str(marks),
            str(self.random.random()), self.broken, *actions,
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            env=machine.environment(HERMETIC_TEST_SYNC=sync, HERMETIC_TEST_BOOT_ID=disk.boot_id),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=machine.dies_with_us,  # noqa: PLW1509
        )
        return process, bool(point)

    @staticmethod
    def note(marks: Path, **what: object) -> None:
        descriptor = os.open(marks, os.O_WRONLY)
        os.pwrite(descriptor, json.dumps(what).encode(), 0)
        os.close(descriptor)

    def judge_all(self, disk: Disk, log: Log) -> None:
        marks = [(position, json.loads(data)) for position, data in log.marks()]
        self.report.writes += len(log.writes(0, len(log.entries)))
        self.report.flushes += log.flushes()
        images = Images(log, disk.base, disk.folder)
        cuts = sorted(self.choose(log, marks), key=lambda cut: cut.position)
        going_on = self.random.randrange(len(cuts))
        claims, waiting = disk.claims, iter([*marks, (len(log.entries) + 1, {})])
        position, mark = next(waiting)
        for number, cut in enumerate(cuts):
            while position <= cut.position:
                claims.hear(mark)
                position, mark = next(waiting)
            image = images.crash(cut.position, cut.fate, random.Random(cut.seed))
            if number == going_on:
                copy(image, disk.folder / "next")
                after = claims.after_the_crash()
            self.judge(disk, image, cut, claims)
            if self.report.bad:
                return
        os.replace(disk.folder / "next", disk.base)
        disk.claims, disk.boot = after, disk.boot + 1

    def choose(self, log: Log, marks: list[tuple[int, dict[str, Any]]]) -> Iterator[Cut]:
        """Half after sync points, the rarest first; a quarter right after promises; the rest anywhere."""
        points = [(position, mark["name"]) for position, mark in marks if mark["do"] == "point"]
        links = [(position, "promise of a link") for position, mark in marks if mark.get("links")]
        promises = links or [(position, "promise of a path") for position, mark in marks if mark.get("paths")]
        for number in range(self.cuts):
            fate, seed = self.random.choice(FATES), str(self.random.random())
            if number % 4 == 2 and promises:
                yield Cut(*self.random.choice(promises)[:1], "none", seed, self.counted(promises[0][1]))
            elif number % 2 and points:
                fewest = min(self.report.faults_by_point[name] for _, name in points)
                rare = [(p, name) for p, name in points if self.report.faults_by_point[name] == fewest]
                position, name = self.random.choice(rare)
                yield Cut(position, fate, seed, self.counted(name))
            else:
                yield Cut(self.random.randint(0, len(log.entries)), fate, seed, self.counted("any moment"))

    def counted(self, name: str) -> str:
        self.report.faults_by_point[name] += 1
        return name

    def judge(self, disk: Disk, image: Path, cut: Cut, claims: Claims) -> None:
        self.report.faults[disk.kind] += 1
        self.report.faults_by_fate[cut.fate] += 1
        said = look(disk.kind, image, self.mount, f"boot-{disk.boot + 1}", claims)
        self.report.promises_checked += len(claims.paths) + len(claims.links)
        for name in ("records", "doubted", "broken"):
            setattr(self.report, name, getattr(self.report, name) + said.get(name, 0))
        if said["violations"]:
            where = f"{disk.kind}, round {self.report.rounds}, {cut}"
            self.report.violations += [f"{where}: {line}" for line in said["violations"]]
            self.keep(disk, cut, claims)

    def keep(self, disk: Disk, cut: Cut, claims: Claims) -> None:
        """What ``--again`` needs."""
        again = {"kind": disk.kind, "boot": disk.boot, "cut": dataclasses.asdict(cut), "claims": spoken(claims)}
        (disk.folder / "cut.json").write_text(json.dumps(again))


def spoken(claims: Claims) -> dict[str, list[dict[str, object]]]:
    return {
        "paths": [dataclasses.asdict(promise) for promise in claims.paths.values()],
        "links": [dataclasses.asdict(link) for link in claims.links.values()],
    }


def look(kind: str, image: Path, mount: Path, boot: str, claims: Claims | dict[str, object]) -> dict[str, object]:
    """What the judge says of an image."""
    document = spoken(claims) if isinstance(claims, Claims) else claims
    try:
        with machine.mounted(kind, image, mount):
            done = subprocess.run(
                [sys.executable, str(machine.HERE / "power_judge.py"), str(mount), boot],
                env=machine.environment(HERMETIC_TEST_SYNC="", HERMETIC_TEST_BOOT_ID=boot),
                input=json.dumps(document),
                capture_output=True,
                text=True,
                check=False,
            )
    except subprocess.CalledProcessError as error:
        return {"violations": [f"{error.cmd}: {error.stderr}"]}
    if done.returncode:
        return {"violations": [f"the judge: {done.stderr[-2000:]}"]}
    return json.loads(done.stdout)


def again(folder: Path) -> int:
    """Make the crash that is kept in `folder` once more, and judge it."""
    kept = json.loads((folder / "cut.json").read_text())
    cut = Cut(**kept["cut"])
    log = Log(folder / "log")
    place = Path(tempfile.mkdtemp(prefix="hermetic-power-", dir=folder))
    mount = folder.parent / "mounted"  # links lead there
    image = Images(log, folder / "base", place).crash(cut.position, cut.fate, random.Random(cut.seed))
    said = look(kept["kind"], image, mount, f"boot-{kept['boot'] + 1}", kept["claims"])
    sys.stdout.write(json.dumps(said, indent=1) + "\n")
    shutil.rmtree(place)
    return 1 if said["violations"] else 0


def roomy() -> str | None:
    """Memory, if there is enough: what the judge does need not be on any disk."""
    memory = "/dev/shm"
    free = shutil.disk_usage(memory).free if os.path.isdir(memory) else 0
    return memory if free > 8 * machine.SIZE else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=0, help="stop after so many [until the time is up]")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--drivers", type=int, default=2, help="processes at a time [%(default)s]")
    parser.add_argument("--cuts", type=int, default=8, help="power losses a round [%(default)s]")
    parser.add_argument("--kinds", nargs="+", choices=machine.KINDS, default=list(machine.KINDS))
    parser.add_argument("--broken", choices=BREAKAGES, default="no", help="take the store's care away: a control")
    parser.add_argument("--actions", nargs="+", choices=ACTIONS, default=list(ACTIONS), help="what drivers do [all]")
    parser.add_argument("--place", type=Path, help="a folder for images [in memory, if there is room]")
    parser.add_argument("--again", type=Path, help="a kept folder, whose crash is made again")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    if reason := machine.lacking(asked.kinds):
        sys.exit(f"cannot run here: {reason}")
    machine.enter()
    if asked.again:
        return again(asked.again)
    place = Path(tempfile.mkdtemp(prefix="hermetic-power-", dir=asked.place or roomy()))
    started = time.monotonic()
    torture = Torture(
        asked.seed,
        place,
        asked.kinds,
        drivers=asked.drivers,
        cuts=asked.cuts,
        broken=asked.broken,
        actions=asked.actions,
    )
    report = torture.report
    while time.monotonic() - started < asked.minutes * 60 and (not asked.rounds or report.rounds < asked.rounds):
        torture.round(asked.kinds[report.rounds % len(asked.kinds)])
        if report.bad:
            sys.stderr.write(f"stopped; the disk and its log are kept below {place}\n")
            break
    else:
        shutil.rmtree(place, ignore_errors=True)
    report.seconds = round(time.monotonic() - started, 1)
    sys.stdout.write(report.as_json() + "\n")
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
