"""Every attempt at a build, with its log: ``builds/<id>/{record.json,log}``. A failed build leaves this and no more."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hermetic.digest import Key
from hermetic.store.faults import storing
from hermetic.store.layout import Layout, make_folders, write_atomic
from hermetic.store.removal import remove_tree

__all__ = ["Attempt", "durations", "find", "like", "newest_first", "prune", "start", "successes"]

RUNNING = "running"
GOOD = frozenset({"exited", "harvested"})  # the outcomes of attempts that left a result


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. `started` and `ended` are Unix seconds; `ended` is 0 and `outcome` "running" until `finish`.

    `pid` and `boot` say which process drove it; `extra` is what the driver wants to remember.
    """

    id: str
    key: Key
    name: str
    folder: Path
    started: int
    pid: int
    boot: str
    ended: int = 0
    outcome: str = RUNNING
    status: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where the build's output goes. It exists from the start."""
        return self.folder / "log"

    @property
    def interrupted(self) -> bool:
        """Whether it says that it is running, but its driver is gone (or another boot's)."""
        if self.outcome != RUNNING:
            return False
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            same_boot = os.environ.get("HERMETIC_TEST_BOOT_ID", file.read().strip()) == self.boot
        return not same_boot or not os.path.exists(f"/proc/{self.pid}")

    def finish(self, outcome: str, *, status: int | None = None, **extra: Any) -> Attempt:
        """Record how it ended: `outcome` in a word, `status` the exit status if there was one."""
        ended = replace(self, ended=int(time.time()), outcome=outcome, status=status, extra={**self.extra, **extra})
        _write(ended)
        return ended


def start(layout: Layout, boot: str, key: Key, name: str, extra: dict[str, Any]) -> Attempt:
    now = time.time_ns()
    # Begins with the key, so that a key's attempts are found by name, and goes on with the time, so that they sort.
    identity = f"{key.base32}-{now:020d}-{os.urandom(4).hex()}"
    folder = Path(layout.folder("builds")) / identity
    attempt = Attempt(identity, key, name, folder, now // 10**9, os.getpid(), boot, extra=extra)
    with storing(layout.root):
        make_folders(str(folder))
        attempt.log.touch()
        _write(attempt)
    return attempt


def newest_first(layout: Layout, key: Key) -> list[Attempt]:
    names = [name for name in os.listdir(layout.folder("builds")) if name.startswith(f"{key.base32}-")]
    found = [find(layout, name) for name in sorted(names, reverse=True)]
    return [attempt for attempt in found if attempt is not None and attempt.key == key]


def like(layout: Layout, prefix: str) -> list[Attempt]:
    """The attempts at keys that begin with `prefix`, in base-32."""
    found = [find(layout, name) for name in sorted(os.listdir(layout.folder("builds"))) if name.startswith(prefix)]
    return [attempt for attempt in found if attempt is not None]


def durations(layout: Layout) -> dict[str, float]:
    """Seconds that the newest successful attempt at each name took."""
    newest: dict[str, Attempt] = {}
    for attempt in like(layout, ""):
        before = newest.get(attempt.name)
        if attempt.outcome in GOOD and (before is None or before.ended <= attempt.ended):
            newest[attempt.name] = attempt
    return {name: float(attempt.ended - attempt.started) for name, attempt in newest.items()}


def successes(layout: Layout) -> dict[str, float]:
    """Seconds that the newest successful attempt at each key took, by the key in base-32."""
    found: dict[str, float] = {}
    for name in sorted(os.listdir(layout.folder("builds")), reverse=True):  # of each key the newest first
        if name[:32] not in found and (attempt := find(layout, name)) is not None and attempt.outcome in GOOD:
            found[name[:32]] = float(attempt.ended - attempt.started)
    return found


def prune(layout: Layout, before: float, alive: Collection[str], *, dry_run: bool) -> int:
    """Remove the attempts that ended before that Unix time, with their logs; say how many they are.

    Of the base-32 keys `alive` the newest success stays: it says what the path cost. What runs stays as well.
    """
    kept: set[str] = set()
    count = 0
    for name in sorted(os.listdir(layout.folder("builds")), reverse=True):
        attempt = find(layout, name)
        if attempt is None or (attempt.outcome == RUNNING and not attempt.interrupted):
            continue
        if attempt.outcome in GOOD and name[:32] in alive and name[:32] not in kept:
            kept.add(name[:32])
        elif (attempt.ended or attempt.started) < before:
            if not dry_run:
                try:
                    remove_tree(str(attempt.folder))
                except PermissionError:  # another member's, for them or root to remove
                    continue
            count += 1
    return count


def find(layout: Layout, identity: str) -> Attempt | None:
    """The attempt of that id; None when it has no record that can be read."""
    folder = Path(layout.folder("builds")) / identity
    try:
        record = json.loads((folder / "record.json").read_bytes())
        return Attempt(
            id=identity,
            key=Key(record["key"]),
            name=str(record["name"]),
            folder=folder,
            started=int(record["started"]),
            pid=int(record["pid"]),
            boot=str(record["boot"]),
            ended=int(record["ended"]),
            outcome=str(record["outcome"]),
            status=record["status"],
            extra=dict(record["extra"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(attempt: Attempt) -> None:
    record = {
        "version": 1,
        "key": attempt.key.hex,
        "name": attempt.name,
        "started": attempt.started,
        "ended": attempt.ended,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "pid": attempt.pid,
        "boot": attempt.boot,
        "extra": attempt.extra,
    }
    layout = Layout(str(attempt.folder.parent.parent))
    with storing(layout.root):
        data = json.dumps(record, sort_keys=True, indent=1).encode("ascii")
        write_atomic(layout, str(attempt.folder / "record.json"), data)
