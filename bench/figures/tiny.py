"""Stages that only write a line: what a driver costs a stage, beside ``nix-build`` and bare bubblewrap."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from bench.peers import nix, store
from bench.place import Place
from bench.rows import Row, timed_row
from bench.timing import Command, Sample, once

STAGES = 300
RUNS = 3
JOBS = 2
LIMIT_MS = 20.0  # a stage

_RECIPE = """\
from hermetic import Host, Script, param
environment = Host(paths=({busybox!r},))
stages = {{
    f"i{{number}}": Script("stage.sh", name=f"s{{number}}", environment=environment, parameters={{"n": number}})
    for number in range({count})
}}
default = Script("stage.sh", name="all", environment=environment, inputs=stages)
"""
_SCRIPT = "#!{busybox} sh\nexec {busybox} cp /build/stage.json /build/out/file\n"
_LOOP = """\
number=0
while [ $number -lt {count} ]; do
    {command} {busybox} sh -c "echo $number > /tmp/file"
    number=$((number + 1))
done
"""
_BWRAP = "bwrap --unshare-all --die-with-parent --ro-bind {busybox} {busybox} --proc /proc --dev /dev --tmpfs /tmp"


def measure(place: Place) -> Iterator[Row]:
    """Whole commands, in turn, each in an empty store; start, planning and the syncs at the end are in them."""
    busybox = os.path.realpath(nix.busybox() or "")
    _write(place, busybox)
    commands = {"hermetic realise": _realise(place)}
    if nix.available():
        commands["nix-build, no sandbox"] = store.build(place, STAGES, JOBS)
    if shutil.which("bwrap"):
        commands["bare bubblewrap, one after the other"] = _loop(_BWRAP.format(busybox=busybox), busybox)
    commands["no sandbox and no driver, one after the other"] = _loop("", busybox)
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            for left in ("store", "nix"):
                _remove(place.folder / left)
            os.sync()
            samples[name].append(_each(once(command)))
    for name, taken in samples.items():
        ours = name == "hermetic realise"
        what = f"{name}, {STAGES} tiny stages" + ("" if "one after" in name else f", -j{JOBS}")
        yield timed_row("tiny", what, taken, unit="ms", limit=LIMIT_MS if ours else None, note="ms a stage")
        used = [dataclasses.replace(sample, seconds=sample.cpu) for sample in taken]
        yield timed_row("tiny", f"{name}, processor time", used, unit="ms", note="ms a stage, on all cores")


def _each(sample: Sample) -> Sample:
    each = STAGES + 1
    return dataclasses.replace(sample, seconds=sample.seconds / each, cpu=sample.cpu / each, stdout="")


def _write(place: Place, busybox: str) -> None:
    folder = place.below("recipes")
    (folder / "recipe.py").write_text(_RECIPE.format(busybox=busybox, count=STAGES), "utf-8")
    script = folder / "stage.sh"
    script.write_text(_SCRIPT.format(busybox=busybox), "utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    place.folder.chmod(0o755)  # Nix's builders are other users


def _realise(place: Place) -> Command:
    command = place.hermetic("realise", "recipe.py", "--no-link", "-j", str(JOBS))
    return dataclasses.replace(command, cwd=place.folder / "recipes")


def _loop(command: str, busybox: str) -> Command:
    return Command([busybox, "sh", "-c", _LOOP.format(command=command, busybox=busybox, count=STAGES + 1)])


def _remove(path: Path) -> None:
    for parent, folders, _ in os.walk(path):
        for name in folders:
            if not os.path.islink(os.path.join(parent, name)):
                os.chmod(os.path.join(parent, name), 0o700)
    shutil.rmtree(path, ignore_errors=True)
