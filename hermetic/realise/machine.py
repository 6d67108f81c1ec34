"""What this machine has for building: every fact is tried, not inferred, where trying costs little."""

from __future__ import annotations

import asyncio
import json
import os
import platform as python_platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from hermetic.errors import HermeticError
from hermetic.fetch.oci_credentials import known_hosts
from hermetic.fetch.wheels import find_uv
from hermetic.sandbox import abi, cgroup, gpu_driver, gpu_lease, gpu_probe, platform, podman, runner, tools, workspace
from hermetic.sandbox.gpu import discover
from hermetic.sandbox.gpu_driver import GpuAccess
from hermetic.sandbox.plan import LaunchPlan, Limits, Mount
from hermetic.store.copying import reflink
from hermetic.store.layout import filesystem_magic, is_store

__all__ = ["SUPPORTED", "examine"]

#: File systems that a store is made for.
SUPPORTED: Final = ("ext4", "xfs", "btrfs")

_MAGIC: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlay",
    0x6969: "nfs",
    0x65735546: "fuse",
    0x2FC12FC1: "zfs",
}
_SETTINGS: Final = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
)
_PATIENCE: Final = 60  # seconds that an engine may take to start a container, or to say that it can't


def examine(store: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """All facts, as one JSON document. `store` is where the store is or would be. Call it on the main thread."""
    return {
        "system": _system(),
        "gpu": _gpu(),
        "runtimes": {"bwrap": _bwrap(), "podman": _podman(), "docker": _docker()},
        "namespaces": {name: _setting(name) for name in _SETTINGS},
        "cgroups": _cgroups(),
        "store": _store(store),
        "tools": {"uv": _uv(), "umoci": _tool("umoci", "--version"), "g++": _tool("g++", "--version")},
        "nix": _tool("nix", "--version"),
        "registries": known_hosts(environ),
    }


def _system() -> dict[str, Any]:
    here = platform.detect()
    distribution = ""
    with suppress(OSError):
        distribution = python_platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return {
        "system": here.system,
        "kernel": here.kernel,
        "distribution": distribution,
        "cpu_model": here.cpu_model,
        "cpu_isa": here.cpu_isa,
        "cores": here.cores,
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "python": python_platform.python_version(),
        "root": os.geteuid() == 0,
    }


def _gpu() -> dict[str, Any]:
    inventory = discover()
    facts = inventory.facts()
    if not inventory.devices:
        return facts | {"works": False, "error": inventory.reason, "hint": _GPU_HINT}
    try:
        found = gpu_driver.access(inventory.devices[:1], inventory.root)
        facts |= {"libraries": os.path.dirname(found.libraries[0][0]), "locks": gpu_lease.folder()}
        return facts | _look(found)
    except HermeticError as error:
        return facts | _failed(error)


def _look(found: GpuAccess) -> dict[str, Any]:
    """Start CUDA in a sandbox, as before a stage; needs a Python that such a sandbox has, and says nothing without."""
    if not os.path.exists(_PYTHON):
        return {"works": True}
    try:
        said, complaint = asyncio.run(_start("bwrap", found, gpu_probe.__file__))
    except HermeticError:
        return {"works": True}  # there is no such sandbox here, which is told elsewhere and is not the GPU's fault
    seen = json.loads(said) if said else {"error": complaint or "nothing was said"}
    if "error" in seen:
        return {"works": False, "error": f"CUDA does not start in a sandbox: {seen['error']}", "hint": "nvidia-smi"}
    return {"works": True, "inside": seen}


_PYTHON: Final = "/usr/bin/python3"
_GPU_HINT: Final = "run it on a machine with an NVIDIA GPU and its driver; in a container, docker run --gpus all"


def _bwrap() -> dict[str, Any]:
    return _tried("bwrap", tools.bubblewrap)


def _podman() -> dict[str, Any]:
    return _tried("podman", podman.available)


def _tried(runtime: str, find: Callable[[], str]) -> dict[str, Any]:
    """Start /usr/bin/true in the sandbox that a stage would have, with the same code."""
    try:
        version = _tool(find(), "--version")["version"]
    except HermeticError as error:
        return _failed(error)
    try:
        _, said = asyncio.run(asyncio.wait_for(_start(runtime), _PATIENCE))
    except HermeticError as error:
        return _failed(error)
    except TimeoutError:
        said = f"{runtime} took longer than {_PATIENCE} s"
    return {"works": not said, "version": version} | ({"error": said, "hint": f"{runtime} --help"} if said else {})


async def _start(runtime: str, gpu: GpuAccess | None = None, program: str = "") -> tuple[str, str]:
    """What a Python program said, or nothing with a program that does nothing; and what went wrong, or ""."""
    folder = tempfile.mkdtemp(prefix="hermetic-doctor-")
    log = os.memfd_create("doctor", os.MFD_CLOEXEC)
    said = bytearray()
    try:
        plan = _smallest(folder, gpu, program)
        ended = await runner.run(plan, log=log, on_answer=said.extend, runtime=runtime)
        return said.decode(), "" if ended.ok else f"a program in it ended with {ended.status or ended.signal}"
    finally:
        os.close(log)
        shutil.rmtree(folder, ignore_errors=True)


def _smallest(folder: str, gpu: GpuAccess | None, program: str) -> LaunchPlan:
    """The smallest stage that there is, with this machine's programs as its environment."""
    os.chmod(folder, 0o755)  # noqa: S103  # the build's user walks through it
    workspace.prepare(folder)
    with open(f"{folder}/stage.json", "w", encoding="ascii") as stream:
        stream.write("{}")
    argv: tuple[str, ...] = ("/usr/bin/true",)
    if program:
        shutil.copyfile(program, f"{folder}/program/look.py")
        argv = (_PYTHON, "-I", f"{abi.PROGRAM}/look.py")
    places = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
    mounts = tuple(Mount(os.path.realpath(path), path) for path in places)
    return LaunchPlan(argv=argv, workspace=folder, mounts=mounts, limits=Limits(wall_s=_PATIENCE), gpu=gpu)


def _docker() -> dict[str, Any]:
    tool = shutil.which("docker")
    if tool is None:
        return {"works": False, "error": "docker is not installed", "hint": "https://docs.docker.com/engine/install/"}
    command = [tool, "version", "--format", "{{.Client.Version}} {{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return {"works": False, "error": f"docker did not answer within {_PATIENCE} s", "hint": "docker info"}
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        hint = "systemctl start docker, and be in the group docker"
        return {"works": False, "error": f"docker's daemon does not answer: {said}", "hint": hint}
    return {"works": True, "version": done.stdout.split()[-1], "only": "its daemon answers; nothing was started"}


def _failed(error: HermeticError) -> dict[str, Any]:
    return {"works": False, "reason": error.reason, "error": error.message, "hint": error.hint or ""}


def _setting(name: str) -> int | None:
    try:
        with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return None


def _cgroups() -> dict[str, Any]:
    """Whether the limits of a stage can hold for its whole tree."""
    try:
        group = cgroup.make(Limits(memory_mb=64, processes=16))
    except OSError:
        group = None
    if group is None:
        hint = "as root, or systemd-run --user --scope -p Delegate=yes hermetic ...; else limits hold per process"
        return {"works": False, "error": "no control group with limits can be made", "hint": hint}
    group.close()
    return {"works": True, "version": group.version}


def _store(root: str) -> dict[str, Any]:
    """The folder, or the nearest one above it that exists."""
    folder = root
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    kind = _MAGIC.get(filesystem_magic(folder), "other")
    free = os.statvfs(folder)
    facts: dict[str, Any] = {
        "path": root,
        "filesystem": kind,
        "supported": kind in SUPPORTED,
        "free_bytes": free.f_bavail * free.f_frsize,
    }
    try:
        facts["exists"] = is_store(root)
        facts["reflink"] = _reflinks(folder)
    except HermeticError as error:
        return facts | _failed(error)
    except OSError as error:
        hint = "choose another folder with --store or HERMETIC_STORE"
        return facts | {"works": False, "error": f"{folder}: {error.strerror}", "hint": hint}
    if kind == "nfs":
        hint = "choose a folder on a local ext4, xfs or btrfs file system with --store or HERMETIC_STORE"
        return facts | {"works": False, "error": "it lies on NFS", "hint": hint}
    return facts | {"works": True}


def _reflinks(folder: str) -> bool:
    with tempfile.TemporaryFile(dir=folder) as one, tempfile.TemporaryFile(dir=folder) as other:
        one.write(b"x" * 4096)
        one.flush()
        return reflink(one.fileno(), other.fileno())


def _uv() -> dict[str, Any]:
    try:
        return _tool(find_uv(), "--version")
    except HermeticError:
        return {"works": False, "error": "uv is not installed", "hint": "pip install 'hermetic-engines[python-env]'"}


def _tool(name: str, flag: str) -> dict[str, Any]:
    """Whether a program is there, and the first line that it says of itself."""
    found = shutil.which(name)
    if found is None:
        return {"works": False, "error": f"{name} is not installed", "hint": _INSTALL.get(name, "")}
    done = subprocess.run([found, flag], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() or [""]
    number = re.search(r"\d+(\.\d+)+[-+~\w.]*", lines[0])
    return {"works": done.returncode == 0, "version": number[0] if number else lines[0]}


_INSTALL: Final = {
    "umoci": "apt-get install umoci",
    "g++": "apt-get install g++",
    "nix": "https://nixos.org/download",
}
