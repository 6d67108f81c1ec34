"""What a sandbox costs over the bare command: with paths of the machine, and with an image's root."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import inside
from bench.peers import nix
from bench.place import Place
from bench.rows import Row
from bench.timing import Failed

RUNS = 40
LIMIT_MS = 25.0  # over the bare command

_TIME = """
import asyncio, json, os, subprocess, sys, tempfile, time
from hermetic.sandbox import runner, workspace
from hermetic.sandbox.plan import LaunchPlan, Mount
busybox, root, runs, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
log = os.open(os.devnull, os.O_WRONLY)
async def confined(**more):
    place = tempfile.mkdtemp(dir=folder)
    workspace.prepare(place)
    with open(place + "/stage.json", "w") as stream:
        stream.write("{}")
    start = time.perf_counter()
    ended = await runner.run(LaunchPlan(workspace=place, **more), log=log)
    assert ended.ok, ended
    return (time.perf_counter() - start) * 1000
def bare():
    start = time.perf_counter()
    subprocess.run([busybox, "true"], stdin=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000
def bwrap():
    start = time.perf_counter()
    subprocess.run(["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", busybox, busybox, "--proc", "/proc",
                    "--dev", "/dev", "--tmpfs", "/tmp", busybox, "true"], stdin=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000
async def main():
    times = {"bare": [], "bwrap": [], "host": [], "image": []}
    for turn in range(runs + 1):
        taken = {"bare": bare(), "bwrap": bwrap(),
                 "host": await confined(argv=(busybox, "true"), mounts=(Mount(busybox, busybox),)),
                 "image": await confined(argv=("/bin/busybox", "true"), root=root, image="oci:bench@sha256:0")}
        if turn:
            for name, value in taken.items():
                times[name].append(value)
    print(json.dumps(times))
asyncio.run(main())
"""


def measure(place: Place) -> Iterator[Row]:
    """In turn, in one process; a workspace is made beforehand, as it is for any runtime."""
    busybox = os.path.realpath(nix.busybox() or "")
    root = _unpacked(place, busybox)
    place.folder.chmod(0o755)
    arguments = (busybox, str(root), str(RUNS), str(place.below("workspaces")))
    times: dict[str, list[float]] = inside.run(place, _TIME, *arguments)
    bare = statistics.median(times["bare"])
    yield _row("the bare command", times["bare"])
    yield _row("bare bubblewrap", times["bwrap"])
    for what, name in (("paths of the machine", "host"), ("an unpacked image", "image")):
        yield _row(f"a sandbox with {what}", times[name])
        over = statistics.median(times[name]) - bare
        yield Row("sandbox", f"{what}, over the bare command", over, "ms", runs=RUNS, limit=LIMIT_MS)


def _row(what: str, values: list[float]) -> Row:
    return Row("sandbox", what, statistics.median(values), "ms", runs=len(values), spread=(min(values), max(values)))


def _unpacked(place: Place, busybox: str) -> Path:
    """An image of busybox, made with umoci, imported by the driver as any other, in a store of its own."""
    if shutil.which("umoci") is None:
        raise Failed("needs umoci")
    folder = place.below("image")
    for words in (
        ("init", "--layout", "layout"),
        ("new", "--image", "layout:t"),
        ("unpack", "--image", "layout:t", "b"),
    ):
        subprocess.run(["umoci", *words], cwd=folder, check=True)
    (folder / "b" / "rootfs" / "bin").mkdir()
    shutil.copy(busybox, folder / "b" / "rootfs" / "bin" / "busybox")
    subprocess.run(["umoci", "repack", "--image", "layout:t", "b"], cwd=folder, check=True)
    recipe = folder / "recipe.py"
    recipe.write_text(
        'from hermetic import Image, Script\ndefault = Script("stage.sh", environment=Image("oci:layout:t"))\n',
        "utf-8",
    )
    (folder / "stage.sh").write_text("#!/bin/busybox sh\n/bin/busybox touch /build/out/file\n", "utf-8")
    (folder / "stage.sh").chmod(0o755)
    for verb in ("lock", "realise"):
        command = place.hermetic(verb, str(recipe), *(["--no-link"] if verb == "realise" else []))
        done = subprocess.run(
            list(command.arguments), cwd=folder, env=os.environ | dict(command.env), capture_output=True, check=False
        )
        if done.returncode:
            raise Failed(f"hermetic {verb} exited {done.returncode}: {done.stderr.decode()[-500:]}")
    (found,) = (place.folder / "store" / "images").glob("*/rootfs")
    return found
