"""Runs one stage under the watch of `Tree` and prints what it saw as JSON. Standard library and the sandbox only."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping

from hermetic.sandbox import runner, workspace
from hermetic.sandbox.plan import LaunchPlan, Mount
from hermetic.sandbox.processes import Tree

ENGINE = "out/rank0.engine"
ROOTS = ("/usr", "/lib", "/lib64", "/bin")


def plan(order: dict) -> LaunchPlan:
    place = order["place"]
    os.mkdir(place)
    workspace.prepare(place)
    with open(f"{place}/program/main.py", "w", encoding="utf-8") as stream:
        stream.write(order["program"])
    with open(f"{place}/stage.json", "w", encoding="utf-8") as stream:
        stream.write("{}")
    mounts = tuple(Mount(os.path.realpath(root), root) for root in ROOTS if os.path.exists(root))
    return LaunchPlan(("/usr/bin/python3", "/build/program/main.py"), place, mounts=mounts)


async def look(order: dict, tree: Tree, seen: dict) -> None:
    path = f"{order['place']}/{ENGINE}"
    if order["times"] == 1:
        status = os.stat(path)
        wanted = {(status.st_dev, status.st_ino)}
        holders, seen["hidden"] = tree.holders(wanted)
        seen["holders"] = [(holder.program, holder.how) for holder in holders]
    changes = []
    for _ in range(order["times"]):
        seen["frozen"] = await tree.freeze(10) and tree.frozen()
        before = state(path)
        await asyncio.sleep(0.05)  # the time in which nothing must happen
        changes += [] if state(path) == before else [path]
        if order["times"] > 1:
            tree.thaw()
            while state(path) == before:  # noqa: ASYNC110  # nobody would set an event
                await asyncio.sleep(0)
            seen["went_on"] = True
    seen["changed_while_frozen"] = changes


def state(path: str) -> Mapping[str, object]:
    status = os.stat(path)
    return {"size": status.st_size, "changed": status.st_mtime_ns}


async def main(order: dict) -> dict:
    ready = asyncio.Event()
    seen: dict = {}

    def hear(data: bytes) -> None:
        if b"ready" in data:
            ready.set()

    async def oversee(tree: Tree) -> None:
        await ready.wait()
        await look(order, tree, seen)

    log = os.open(f"{order['place']}.log", os.O_CREAT | os.O_WRONLY, 0o644)
    ended = await runner.run(plan(order), log=log, on_output=hear, overseer=oversee)
    if not ended.stopped:
        raise SystemExit(f"the stage ended by itself: {ended} {read(order['place'] + '.log')}")
    seen["left"] = read(f"{order['place']}/{ENGINE}")
    return seen


def read(path: str) -> str:
    with open(path, "rb") as stream:
        return stream.read(4096).decode("latin-1")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
