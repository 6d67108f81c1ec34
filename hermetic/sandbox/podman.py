"""Runs a `LaunchPlan` under podman: the same guard as bubblewrap's, and nothing left of the container either.

Killing podman's client leaves its container to conmon. But conmon and the container descend from our guard, which is
a child subreaper: whatever loses its parent becomes the guard's child and is killed. After that the guard has podman
forget the container. A container whose guard was killed too is found and removed by the next run (`sweep`).
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import subprocess
import warnings
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import abi, launch, owner, tools, workspace
from hermetic.sandbox.output import Output
from hermetic.sandbox.plan import LaunchPlan
from hermetic.sandbox.process import Process

__all__ = ["RUNTIMES", "available", "choose", "start", "sweep"]

RUNTIMES: Final = ("auto", "bwrap", "podman")
_PREFIX: Final = "hermetic"
_OLDEST: Final = (4, 3)  # has --unsetenv-all and keep-id:uid=
_NOWHERE: Final = subprocess.DEVNULL
_FAILED: Final = frozenset({125, 126, 127})  # podman's own, when it could not run the program
_INSTALL: Final = "apt-get install podman catatonit"


def choose(wanted: str) -> str:
    """What `wanted`, one of `RUNTIMES`, comes to: "podman", or "bwrap" wherever that works.

    Raises `HermeticError`: environment/no-sandbox, environment/no-podman.
    """
    if wanted == "podman":
        available()
    if wanted != "auto" or shutil.which("podman") is None:
        return "bwrap" if wanted == "auto" else wanted
    try:
        tools.available()
    except HermeticError:
        available()
        return "podman"
    return "bwrap"


def available() -> str:
    """The path of ``podman``. Raises `HermeticError` (environment/no-podman)."""
    return _checked(os.environ.get("PATH", os.defpath))


@functools.cache
def _checked(path: str) -> str:
    found = shutil.which("podman", path=path)
    if found is None:
        raise _no_podman("podman is not installed", _INSTALL)
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"(\d+)\.(\d+)", said)
    if match is None or tuple(map(int, match.groups())) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise _no_podman(f"{found} is {said.strip() or 'broken'}; stages need {oldest} or newer", _INSTALL)
    return found


def _no_podman(message: str, hint: str) -> HermeticError:
    return HermeticError(Domain.ENVIRONMENT, "no-podman", message, hint=hint)


def start(plan: LaunchPlan, output: Output, answer: Output, stdin: int = subprocess.DEVNULL) -> Process:
    """Start the stage in a container; must be called on the main thread. Output and `stdin` as for `runner.run`."""
    tool = available()
    sweep()
    ids = (launch.BUILD_UID, launch.BUILD_GID) if launch.drops_privileges() else None
    _prepare(plan, ids is not None)
    name = _name()
    masked = tuple(path for path in plan.masked if os.path.lexists(path))
    granted = launch.granted_limits()
    interactive = stdin != subprocess.DEVNULL
    args = replace(plan, masked=masked).podman_args(name, ids=ids, ulimits=granted, interactive=interactive)
    with ExitStack() as ours:
        status, status_writer = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, status_writer)
        report, report_writer = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, report)
        ours.callback(os.close, report_writer)
        child = launch.Child(
            sources=(), limits=(), drop=False, report=report_writer, parent=os.getpid(), afterwards=_forget(tool, name)
        )
        with warnings.catch_warnings():
            # 3.12 warns of forking beside threads; the child makes system calls only.
            warnings.simplefilter("ignore", DeprecationWarning)
            launched = subprocess.Popen(
                [tool, *args],
                stdin=stdin,
                stdout=answer.writer,
                stderr=output.writer,
                cwd="/",
                start_new_session=True,
                preexec_fn=child,  # noqa: PLW1509
            )
        output.close_writer()
        answer.close_writer()
        return _Container(launched, output, status, _forget(tool, name))


class _Container(Process):
    """Its client's exit status is the program's, except for podman's own three. `forget` is what removes it."""

    def __init__(self, launched: subprocess.Popen[bytes], output: Output, status: int, forget: tuple[str, ...]) -> None:
        super().__init__(launched, output, status)
        self._forget: tuple[str, ...] | None = forget

    async def gone(self) -> None:
        await super().gone()
        code = self.launched.returncode
        if code < 0 and self._forget is not None:  # somebody killed the guard, which left all of it to us
            forget, self._forget = self._forget, None
            removing = await asyncio.create_subprocess_exec(*forget, stdout=_NOWHERE, stderr=_NOWHERE, cwd="/")
            await removing.wait()
        if code >= 0 and code not in _FAILED:
            self.code = code

    def explain(self, said: str) -> HermeticError:
        lines = said.strip().splitlines()[-3:] or ["nothing"]
        message = f"podman could not start the stage; it said: {' / '.join(lines)}"
        hint = "podman info  # and `docs/images.md` has the settings for machines without cgroup v2"
        return HermeticError(Domain.ENVIRONMENT, "sandbox-failed", message, hint=hint)


@functools.cache
def sweep() -> None:
    """Remove containers of drivers that are dead, once a process."""
    tool = available()
    listing = [tool, "ps", "--all", "--filter", "label=hermetic", "--format", "{{.Names}}"]
    said = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    for name in said.split():
        match = re.fullmatch(rf"{_PREFIX}-(\d+)-(\d+)-[0-9a-f]+", name)
        if match is not None and not owner.lives(f"{match[1]}-{match[2]}"):
            subprocess.run(_forget(tool, name), capture_output=True, check=False)


def _forget(tool: str, name: str) -> tuple[str, ...]:
    return (tool, "rm", "--force", "--time", "0", "--ignore", name)


def _name() -> str:
    """Says whose it is."""
    return f"{_PREFIX}-{owner.name()}-{os.urandom(6).hex()}"


def _prepare(plan: LaunchPlan, for_other: bool) -> None:
    """What bubblewrap takes over descriptors lies in the workspace here; and a root, where there is no image's."""
    os.makedirs(f"{plan.workspace}/etc", exist_ok=True)
    for name, text in abi.ETC.items():
        with open(f"{plan.workspace}/etc/{name}", "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(f"{plan.workspace}/etc/{name}", 0o444)
    if plan.root is None:
        _make_root(f"{plan.workspace}/root", plan)
    if for_other:
        workspace.hand_over(plan.workspace, launch.BUILD_UID, launch.BUILD_GID)
        for folder, _, _ in os.walk(f"{plan.workspace}/root"):  # where the container's root must be able to mount
            os.chown(folder, launch.BUILD_UID, launch.BUILD_GID)


def _make_root(root: str, plan: LaunchPlan) -> None:
    for folder in (*abi.FOLDERS, "/dev", "/proc", "/sys", "/run"):
        os.makedirs(f"{root}{folder}", exist_ok=True)
    for place, text in plan.links():
        os.makedirs(os.path.dirname(f"{root}{place}"), exist_ok=True)
        with suppress(FileExistsError):
            os.symlink(text, f"{root}{place}")
