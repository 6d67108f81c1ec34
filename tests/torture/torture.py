"""Many drivers, one store, random kills: ``python tests/torture/torture.py --seed 1 --minutes 5``.

Each round starts several processes at once. Every one does a few random things with the store: builds, adoptions,
roots, switches of a profile, collections, repairs, imports. Half of them are to be killed with SIGKILL at a random
sync point, when they reach it for the nth time, and a quarter at a random moment. When all have ended, the independent
checker (`tests/store/store_checker.py`) looks at what is on the disk; every fifth round somebody collects, and then
nothing may be left over. No path may ever be found damaged, and what a driver has leased and realised must be there.
The report is JSON on stdout; the exit status is 1 if there was a violation.

With ``--power`` it is `tests/power/power_torture.py` that runs, with the rest of the arguments.

With the same seed the same processes do the same things and are to die at the same points; how they interleave is the
machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "store")]

from store_checker import violations  # noqa: E402  # found through the line above

NAMES = 12  # keys that all drivers fight for
ACTIONS = {
    "build": 8, "adopt": 3, "root": 3, "unroot": 2, "link": 3, "rollback": 2, "prune": 1, "gc": 3, "gc-room": 2,
    "verify": 1, "repair": 1, "import": 2,
}  # fmt: skip


@dataclass
class Report:
    """What happened, in numbers. `faults` are processes that were killed, by the sync point or "any moment"."""

    seed: int
    rounds: int = 0
    processes: int = 0
    finished: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    collections_checked: int = 0
    violations: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> str:
        faults = sum(self.faults.values())
        document = {**self.__dict__, "faults": faults, "faults_by_point": dict(sorted(self.faults.items()))}
        return json.dumps({**document, "violation_count": len(self.violations)}, indent=1, sort_keys=True)


def sync_points() -> list[str]:
    """Every named point of the store's code."""
    text = "".join(path.read_text("utf-8") for path in (REPOSITORY / "hermetic" / "store").glob("*.py"))
    return sorted(set(re.findall(r'reach\("([^"]+)"\)', text)))


class Torture:
    def __init__(self, seed: int, place: Path, drivers: int) -> None:
        self.random = random.Random(seed)
        self.place = place
        self.root = place / "store"
        self.drivers = drivers
        self.points = sync_points()
        self.report = Report(seed)
        (place / "links").mkdir()

    def round(self) -> None:
        """Let the drivers at it, then judge."""
        started = [self.start() for _ in range(self.drivers)]
        for process, point, delay in started:
            self.wait(process, point, delay)
        self.report.rounds += 1
        self.judge(self.report.rounds % 5 == 0)

    def start(self) -> tuple[subprocess.Popen[str], str, float]:
        actions = self.random.choices(list(ACTIONS), list(ACTIONS.values()), k=self.random.randint(2, 6))
        self.report.actions.update(actions)
        self.report.processes += 1
        fate = self.random.random()
        point = self.random.choice(self.points) if fate < 0.5 else ""
        delay = self.random.uniform(0.2, 1.5) if 0.5 <= fate < 0.75 else 0.0
        sync = f"{point}#{self.random.choice((1, 1, 1, 2, 3, 7))}:kill" if point else ""
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py")), str(self.place), str(self.random.random()),
             *actions],
            env=os.environ | {"HERMETIC_TEST_SYNC": sync, "PYTHONPATH": os.pathsep.join(sys.path[:2])},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return process, point, delay

    def wait(self, process: subprocess.Popen[str], point: str, delay: float) -> None:
        try:
            _, err = process.communicate(timeout=delay or 120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            if not delay:
                self.report.unexpected.append("a driver did not end within two minutes")
            self.report.faults["any moment"] += 1
            return
        if process.returncode == -9:
            self.report.faults[point] += 1
        elif process.returncode == 0:
            self.report.finished += 1
        else:
            self.report.unexpected.append(err[-2000:])

    def judge(self, collect: bool) -> None:
        found = violations(self.root)
        self.report.checks += 1
        if collect:
            done = subprocess.run(
                [sys.executable, str(Path(__file__).with_name("driver.py")), str(self.place), "0", "repair", "gc"],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:2])},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                self.report.unexpected.append(done.stderr[-2000:])
            found += violations(self.root, is_tidy=True)
            self.report.collections_checked += 1
        self.report.violations += [f"round {self.report.rounds}: {line}" for line in found]


def main() -> int:
    if "--power" in sys.argv:
        script = str(REPOSITORY / "tests" / "power" / "power_torture.py")
        os.execv(sys.executable, [sys.executable, script, *(word for word in sys.argv[1:] if word != "--power")])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=0, help="stop after so many [until the time is up]")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--drivers", type=int, default=4, help="processes at a time [%(default)s]")
    parser.add_argument("--power", action="store_true", help="cut the power of file systems; see --power --help")
    parser.add_argument("--place", type=Path, help="an empty folder on the file system to try [a temporary one]")
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="hermetic-torture-", dir=asked.place))
    started = time.monotonic()
    torture = Torture(asked.seed, place, asked.drivers)
    while time.monotonic() - started < asked.minutes * 60 and (
        not asked.rounds or torture.report.rounds < asked.rounds
    ):
        torture.round()
        if torture.report.violations or torture.report.unexpected:
            sys.stderr.write(f"stopped; the store is kept at {place}\n")
            break
    else:
        from hermetic.store import remove_tree

        remove_tree(str(place))
        shutil.rmtree(place, ignore_errors=True)
    torture.report.seconds = round(time.monotonic() - started, 1)
    sys.stdout.write(torture.report.as_json() + "\n")
    return 1 if torture.report.violations or torture.report.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
