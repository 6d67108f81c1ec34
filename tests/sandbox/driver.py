"""Runs one stage as the test's own process would, in a process that can be another user's, killed, or planted with
secrets. Reads what to do as JSON from standard input and prints what happened as JSON.

Imports nothing but the standard library and what `hermetic.sandbox.runner` imports, so that any interpreter of an
ordinary user runs it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time

from hermetic.errors import HermeticError
from hermetic.sandbox import runner, workspace
from hermetic.sandbox.plan import LaunchPlan, Limits, Mount


def lay_out(order: dict) -> str:
    place = tempfile.mkdtemp(prefix="ws-", dir=order["scratch"])
    workspace.prepare(place)
    for name, text in order.get("program", {}).items():
        with open(f"{place}/program/{name}", "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(f"{place}/program/{name}", 0o755)
    workspace.stage_inputs(place, order.get("inputs", {}))
    with open(f"{place}/stage.json", "w", encoding="utf-8") as stream:
        json.dump(order.get("facts", {}), stream)
    return place


def make_plan(order: dict, place: str) -> LaunchPlan:
    return LaunchPlan(
        argv=tuple(order["argv"]),
        workspace=place,
        mounts=tuple(Mount(source, target) for source, target in order.get("mounts", [])),
        environment=order.get("environment", {}),
        symlinks=order.get("symlinks", {}),
        limits=Limits(**order.get("limits", {})),
        **order.get("weakened", {}),
    )


async def attempt(plan: LaunchPlan, log: int, cancel_on: str | None) -> dict:
    seen = asyncio.Event()
    output = bytearray()

    def watch(chunk: bytes) -> None:
        output.extend(chunk)
        if cancel_on is not None and cancel_on.encode() in output:
            seen.set()

    started = time.perf_counter()
    task = asyncio.ensure_future(runner.run(plan, log=log, on_output=watch))
    if cancel_on is not None:
        await seen.wait()
        started = time.perf_counter()
        task.cancel()
    result: dict = {}
    try:
        result["exit"] = dataclasses.asdict(await task)
    except asyncio.CancelledError:
        result["cancelled"] = True
    except HermeticError as error:
        result["error"] = [error.domain.value, error.reason, error.message, error.hint]
    except OSError as error:
        result["failed"] = str(error)
    result["seconds"] = time.perf_counter() - started
    result["output"] = output.decode(errors="replace")
    return result


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def main() -> None:
    order = json.load(sys.stdin)
    place = lay_out(order)
    plan = make_plan(order, place)
    log = os.open(order.get("log", f"{place}/log"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if order.get("announce"):
        sys.stdout.write(json.dumps({"pid": os.getpid()}) + "\n")
        sys.stdout.flush()
    result = [asyncio.run(attempt(plan, log, order.get("cancel_on"))) for _ in range(order.get("times", 1))]
    result[-1]["left"] = sorted(os.listdir(f"{place}/out"))
    result[-1]["log"] = _read(f"{place}/log")
    result[-1]["owner"] = os.stat(f"{place}/out").st_uid
    shutil.rmtree(place)
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
