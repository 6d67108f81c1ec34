"""A builder that writes its engine and then hangs: from the engine's last write to its harvest, the whole tree gone."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from bench.place import Place
from bench.rows import Row
from bench.timing import Command, Failed
from hermetic.testing.trtllm.tables import options_json

RUNS = 20
SETTLE_S = 2.0
LIMIT_S = SETTLE_S + 1.0
PEER_S = 600.0
_PROGRAM = """\
import os, sys
os.environ.update(STANDIN_BEHAVIOUR="hang", STANDIN_PAUSE="0.02", STANDIN_BYTES="4000000")
words = ["trtllm-build", "--checkpoint_dir", "/build/in/checkpoint", "--output_dir", "/build/out"]
os.execv(sys.executable, [sys.executable, "/build/program/standin.py", *words])
"""
_RECIPE = """\
from hermetic import Harvest, LogLine, PythonEnv, Script, Source, param
engine = Script(
    "build.py",
    modules=(Source({folder!r} + "/standin.py"), Source("options.json")),
    environment=PythonEnv("empty.lock"),
    inputs={{"checkpoint": Source("checkpoint")}},
    parameters={{"turn": param("turn", 0)}},
    harvest=Harvest(
        artifacts=("config.json", "rank*.engine"), complete=LogLine("Engine serialized"), settle={settle!r}
    ),
)
"""


def measure(place: Place) -> Iterator[Row]:
    """The end is the moment at which the driver says that it stores: nothing of the stage runs any more then."""
    folder = place.below("harvest")
    _write(folder, place)
    taken = [_once(place, folder, turn) for turn in range(RUNS + 1)][1:]
    worst = max(taken)
    yield Row(
        "harvest",
        f"last write to harvested and gone, worst of {RUNS}, settle {SETTLE_S:g} s",
        worst,
        "s",
        runs=RUNS,
        spread=(min(taken), worst),
        limit=LIMIT_S,
    )
    note = "by definition, from the start; not waited for"
    yield Row("harvest", "timeout 600, then copy", PEER_S, "s", runs=0, note=note)


def _write(folder: Path, place: Place) -> None:
    standin = place.repository / "hermetic" / "testing" / "trtllm"
    (folder / "checkpoint").mkdir()
    mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    (folder / "checkpoint" / "config.json").write_text(json.dumps({"mapping": mapping}), "utf-8")
    (folder / "build.py").write_text(_PROGRAM, "utf-8")
    (folder / "options.json").write_text(options_json(), "utf-8")
    (folder / "empty.lock").touch()
    (folder / "recipe.py").write_text(_RECIPE.format(folder=str(standin), settle=f"{SETTLE_S:g}"), "utf-8")


def _once(place: Place, folder: Path, turn: int) -> float:
    words = ("realise", "recipe.py", "--set", f"turn={turn}", "--no-link", "--json")
    command: Command = place.hermetic(*words)
    watch = _LastWrite(place.folder / "store" / "tmp")
    with subprocess.Popen(
        list(command.arguments),
        cwd=folder,
        env={**os.environ, **command.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        with watch:
            events = [json.loads(line) for line in process.stdout]
    ends = [event["at"] for event in events if event.get("state") == "storing"]
    if process.wait() != 0 or len(ends) != 1 or not watch.last:
        raise Failed(f"the stand-in was not harvested: {events[-1:]}")
    return float(ends[0]) - watch.last


class _LastWrite:
    """Looks at the engines in the workspace while they are written: `last` is the latest mtime seen, in seconds."""

    def __init__(self, workspaces: Path) -> None:
        self.last = 0.0
        self._workspaces = workspaces
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            for engine in self._workspaces.glob("*/out/rank*.engine"):
                try:
                    self.last = max(self.last, engine.stat().st_mtime)
                except FileNotFoundError:
                    continue
