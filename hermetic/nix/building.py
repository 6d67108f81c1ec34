"""Builds one stage inside Nix's sandbox: ``python -m hermetic.nix.building``, started as the builder of a derivation.

Nix's sandbox is the sandbox: own process, network, mount and IPC namespaces, uid 1000, ``/build`` as the only writable
folder. Here the stage's layout is made in it, its program is run, watched and harvested as the other driver does, and
what it leaves is looked at as what enters a store is, and copied to the derivation's output.

An image's root file system is put around the program by bubblewrap, which here only changes what ``/`` is. Where Nix
was told to do without its sandbox (``--option sandbox false``, ``__noChroot``) there is no ``/build``, and `outside`
makes one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermetic.canonical import encode
from hermetic.errors import Domain, HermeticError
from hermetic.harvest import Ended, RealSite, Session, Watch, WatchLimits, take, too_small
from hermetic.harvest.evidence import Outcome
from hermetic.nix import output, outside
from hermetic.recipe.harvest import Harvest, KnownSizes, LogLine
from hermetic.sandbox import abi
from hermetic.sandbox.plan import LaunchPlan
from hermetic.sandbox.processes import Tree

__all__ = ["Spec", "build", "harvest_of", "main"]

_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER, from linux/prctl.h
_CHUNK: Final = 1 << 16


@dataclass(frozen=True)
class Spec:
    """What ``nix/stage.nix`` says of a stage; paths are Nix store paths.

    `program` and `inputs` map a name or role to a path, `entry` is the program that is started. `python` and `wheels`
    are a `PythonEnv`'s; `image` is the unpacked image's folder, `bwrap` enters it or makes ``/build``. `libraries` is
    a search path for what wheels need of a system.
    """

    name: str
    entry: str
    program: Mapping[str, str]
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    command: list[str]
    python: str = ""
    wheels: str = ""
    libraries: str = ""
    image: str = ""
    bwrap: str = ""
    harvest: Mapping[str, Any] | None = None
    timeout: int = 0
    silence: int = 0
    gpu: Mapping[str, Any] | None = None


def main() -> int:
    """The builder: reads the specification that Nix passes as a file, and builds ``$out``."""
    with open(os.environ["specPath"], "rb") as stream:
        spec = Spec(**json.load(stream))
    if os.environ["NIX_BUILD_TOP"] != abi.BUILD:
        outside.enter(spec.bwrap, spec.name)
    os.unlink(os.environ["specPath"])
    try:
        digest = asyncio.run(build(spec, os.environ["out"]))
    except HermeticError as error:
        sys.stderr.write(f"error[{error.domain.value}/{error.reason}]: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    sys.stderr.write(f"hermetic: {spec.name} is tree {digest}\n")
    return 0


async def build(spec: Spec, target: str) -> str:
    """Run the stage in ``/build`` and copy what it leaves to `target`; its tree digest, in hexadecimal.

    Raises `HermeticError` with domain build, timeout or environment.
    """
    _adopt_orphans()
    _lay_out(spec)
    if spec.gpu is not None:
        await _require_gpu(spec)
    found = await _Stage(spec).run()
    return output.copy(found, target).hex


def harvest_of(found: Mapping[str, Any]) -> Harvest:
    """The `Harvest` that was exported: JSON has lists where it has tuples."""
    complete = found["complete"]
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    plain["take"] = {role: tuple(globs) for role, globs in found["take"].items()}
    plain["complete"] = LogLine(**complete) if "pattern" in complete else KnownSizes(**complete)
    return Harvest(**plain)


def _adopt_orphans() -> None:
    """Become the parent of whatever loses its own, so that nothing leaves the tree that is watched and killed."""
    import ctypes  # noqa: PLC0415  # loaded once, here

    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _lay_out(spec: Spec) -> None:
    os.umask(abi.UMASK)
    os.chmod(abi.BUILD, 0o755)  # noqa: S103  # as it is elsewhere
    for folder in (abi.IN, abi.PROGRAM, abi.ENV, *(f"{abi.BUILD}/{name}" for name in abi.WORKSPACE_WRITABLE)):
        os.makedirs(folder, exist_ok=True)
    for name, path in spec.program.items():
        shutil.copyfile(path, f"{abi.PROGRAM}/{name}")
        os.chmod(f"{abi.PROGRAM}/{name}", 0o555 if os.access(path, os.X_OK) else 0o444)
    for role, path in spec.inputs.items():
        if not spec.image:
            os.symlink(path, f"{abi.IN}/{role}")
        else:
            for source, place in _bound(path, f"{abi.IN}/{role}"):
                _make_place(source, place)
    for name, path in (("python", spec.python), ("wheels", spec.wheels)):
        if path:
            os.symlink(path, f"{abi.ENV}/{name}")
    roles = {role: f"{abi.IN}/{role}" for role in spec.inputs}
    described: dict[str, Any] = {
        "name": spec.name,
        "parameters": dict(spec.parameters),
        "inputs": roles,
        "out": abi.OUT,
    }
    with open(abi.STAGE, "wb") as stream:
        stream.write(encode(described))


def _bound(path: str, place: str) -> Iterator[tuple[str, str]]:
    """What is bound where, for an input to be seen at `place`: all of it, or what its links stand for, one by one."""
    if not os.path.isdir(path) or not any(entry.is_symlink() for entry in os.scandir(path)):
        yield os.path.realpath(path), place
        return
    for name in sorted(os.listdir(path)):
        yield from _bound(f"{path}/{name}", f"{place}/{name}")


def _make_place(source: str, place: str) -> None:
    """Something to bind over."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.isdir(source):
        os.mkdir(place)
    else:
        open(place, "wb").close()


def _plan(spec: Spec, argv: list[str]) -> LaunchPlan:
    """What is run, as the other driver would; of it only the command and the variables are used."""
    given = {"PYTHONPATH": f"{abi.ENV}/wheels"} if spec.python else {}
    if spec.image:
        with open(f"{spec.image}/variables.json", "rb") as stream:
            given |= json.load(stream)
    root = f"{spec.image}/rootfs" if spec.image else None
    return LaunchPlan(argv=tuple(argv), workspace=abi.BUILD, environment=given, root=root)


def _entered(spec: Spec, plan: LaunchPlan) -> tuple[list[str], list[int]]:
    """The command line that runs `plan`, and the descriptors that it needs."""
    if not spec.image:
        return list(plan.argv), []
    assert plan.root is not None
    words = [spec.bwrap, "--ro-bind", plan.root, "/", "--bind", abi.BUILD, abi.BUILD, "--bind", abi.TMP, "/tmp"]  # noqa: S108
    words += ["--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"]
    for role, path in spec.inputs.items():
        words += [word for pair in _bound(path, f"{abi.IN}/{role}") for word in ("--ro-bind", *pair)]
    descriptors = []
    for name, text in abi.ETC.items():
        descriptors.append(os.memfd_create(name))
        os.write(descriptors[-1], text.encode())
        os.lseek(descriptors[-1], 0, os.SEEK_SET)
        words += ["--ro-bind-data", str(descriptors[-1]), f"/etc/{name}"]
    if spec.gpu is not None:  # the driver's libraries are links into Nix's store
        words += ["--ro-bind", "/nix/store", "/nix/store", "--ro-bind-try", outside.DRIVER, outside.DRIVER]
    return [*words, "--chdir", abi.CWD, "--", *plan.argv], descriptors


def _variables(spec: Spec, plan: LaunchPlan) -> dict[str, str]:
    """The fixed ones; and where Nix keeps what manylinux says a system has, since nothing is in ``/lib`` there."""
    paths = [f"{outside.DRIVER}/lib"] if spec.gpu is not None else []
    paths += [part for part in (spec.libraries, plan.variables().get("LD_LIBRARY_PATH", "")) if part]
    return plan.variables() | ({"LD_LIBRARY_PATH": ":".join(paths)} if paths else {})


class _Stage:
    """One run of the program, with its harvest if it has one."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._harvest = harvest_of(spec.harvest) if spec.harvest is not None else None
        self._tree = Tree(os.getpid(), lambda: False, apart=False)
        self._heard = time.monotonic()
        self._site = RealSite(self._harvest, abi.BUILD, _nobody) if self._harvest is not None else None

    async def run(self) -> str:
        """The folder that the stage leaves. Raises `HermeticError` (build/…, timeout/…)."""
        starting = self._spec.command if self._spec.entry.endswith(".py") else ()
        plan = _plan(self._spec, [*starting, f"{abi.PROGRAM}/{self._spec.entry}"])
        process = _start(self._spec, plan)
        reading = asyncio.create_task(self._read(process))
        session = self._session()
        overseer = asyncio.create_task(session.oversee() if session is not None else self._limits())
        # Not asyncio's own wait: that goes on for as long as any child left behind holds the pipe.
        ending = asyncio.create_task(asyncio.to_thread(process.wait))
        await asyncio.wait({overseer, ending}, return_when=asyncio.FIRST_COMPLETED)
        stopped = not ending.done()
        said = overseer.result() if overseer.done() else None
        overseer.cancel()
        await _kill_all(self._tree, ending)
        await ending
        await reading
        return await self._judge(process.returncode or 0, session, said, stopped=stopped)

    def _session(self) -> Session | None:
        if self._harvest is None or self._site is None:
            return None
        self._site.tree = self._tree
        wall = self._spec.timeout or self._harvest.timeout
        silence = self._spec.silence or self._harvest.silence
        watch = Watch(WatchLimits(float(self._harvest.settle), wall, silence), time.monotonic())
        return Session(self._harvest, self._site, watch)

    async def _read(self, process: subprocess.Popen[bytes]) -> None:
        stream = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), process.stdout)
        while data := await stream.read(_CHUNK):
            self._heard = time.monotonic()
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
            if self._site is not None:
                self._site.hear(data)

    async def _limits(self) -> str:
        """Returns, in words, which limit is reached."""
        started = time.monotonic()
        while True:
            now = time.monotonic()
            if self._spec.timeout and now - started >= self._spec.timeout:
                return f"ran longer than {self._spec.timeout} s"
            if self._spec.silence and now - self._heard >= self._spec.silence:
                return f"printed nothing for {self._spec.silence} s"
            await asyncio.sleep(1)

    async def _judge(self, code: int, session: Session | None, said: str | None, *, stopped: bool) -> str:
        name = self._spec.name
        if session is not None:
            return await self._harvested(session, _ended(code, stopped=stopped))
        if said is not None:
            reason = "stage-timed-out" if said.startswith("ran") else "stage-silent"
            raise HermeticError(Domain.TIMEOUT, reason, f"stage {name!r} {said} and was stopped")
        if code:
            raise HermeticError(Domain.BUILD, "stage-failed", f"stage {name!r} {_ended(code, stopped=False)}")
        return abi.OUT

    async def _harvested(self, session: Session, ended: Ended) -> str:
        assert self._harvest is not None
        assert self._site is not None
        self._site.tree = None
        found = await session.conclude(ended)
        name = self._spec.name
        if not found.good:
            reason = "crashed" if found.outcome is Outcome.CRASHED else found.outcome.value
            domain = Domain.TIMEOUT if found.outcome is Outcome.INCOMPLETE else Domain.BUILD
            doubts = "; ".join(found.doubts)
            how = found.limit or str(ended)
            raise HermeticError(domain, reason, f"stage {name!r} {how}; its artefacts are not complete: {doubts}")
        if differing := session.mismatches(found):
            message = f"stage {name!r} built an engine other than the one asked for: {'; '.join(differing)}"
            raise HermeticError(Domain.BUILD, "harvest-mismatch", message)
        for problem in too_small(self._harvest, found.files, self._spec.inputs):
            raise HermeticError(Domain.BUILD, "harvest-too-small", f"stage {name!r}: {problem}")
        sys.stderr.write(f"hermetic: {name} {found.outcome.value}{f': {found.warning}' if found.warning else ''}\n")
        return take(self._harvest, found, abi.BUILD, self._spec.inputs)


async def _nobody(_folder: str, _files: object) -> str:
    """The export refuses harvests that a program must judge."""
    return "no program judges here"


def _start(spec: Spec, plan: LaunchPlan) -> subprocess.Popen[bytes]:
    words, descriptors = _entered(spec, plan)
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_variables(spec, plan),
            cwd=abi.CWD,
            pass_fds=descriptors,
            start_new_session=True,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def _kill_all(tree: Tree, ending: asyncio.Task[int]) -> None:
    """Everything that the stage started, whatever it did to get away: this process is what they fall back to."""
    while pids := tree.processes():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        while ending.done() and _reap():
            pass
        await asyncio.sleep(0.002)


def _reap() -> bool:
    """Take note of one orphan's end; False if there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _ended(code: int, *, stopped: bool) -> Ended:
    return Ended(None, -code, stopped=stopped) if code < 0 else Ended(code, None, stopped=stopped)


async def _require_gpu(spec: Spec) -> None:
    """Raises `HermeticError` (environment/gpu-mismatch) unless CUDA's driver sees here what the stage declares."""
    assert spec.gpu is not None
    probe = f"{abi.PROGRAM}/gpu_probe.py"
    plan = _plan(spec, [*spec.command, probe])
    said, _ = await asyncio.to_thread(_start(spec, plan).communicate)
    os.unlink(probe)
    try:
        seen = json.loads(said)
    except ValueError:
        seen = {"error": said.decode("utf-8", "replace").strip()[-500:]}
    devices = seen.get("devices", [])
    if len(devices) < spec.gpu["count"] or not all(_is_like(device, spec.gpu) for device in devices):
        there = seen.get("error") or ", ".join(f"{item['product']} (sm {item['sm']})" for item in devices) or "none"
        message = f"stage {spec.name!r} is for {dict(spec.gpu)}; inside Nix's sandbox there is {there}"
        hint = "docs/nix.md says how a machine's GPUs are let into Nix's sandbox"
        raise HermeticError(Domain.ENVIRONMENT, "gpu-mismatch", message, hint=hint)


def _is_like(device: Mapping[str, Any], gpu: Mapping[str, Any]) -> bool:
    return device["sm"] == gpu["sm"] and ("product" not in gpu or device["product"] == gpu["product"])


if __name__ == "__main__":
    sys.exit(main())
