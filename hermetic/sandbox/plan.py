"""What to run, as pure data, and the exact command line that it stands for. No input or output happens here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hermetic.sandbox import abi, containers
from hermetic.sandbox.containers import Ids
from hermetic.sandbox.gpu_driver import GpuAccess

__all__ = ["Inline", "LaunchPlan", "Limits", "Mount", "is_within"]

_FIRST_DESCRIPTOR: Final = 10  # of a printed command: clear of the shell's own


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine, bound read-only at `target`."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stage may use. None is no limit.

    `memory_mb` holds for the whole tree where a control group can be had, else for each process; `processes` counts
    threads too; `wall_s` is seconds from the launch, `silence_s` seconds without output; `shm_mb` sizes ``/dev/shm``;
    `disk_mb` is what the stage may hold in its workspace.
    """

    memory_mb: int | None = None
    processes: int | None = None
    wall_s: int | None = None
    silence_s: int | None = None
    shm_mb: int = abi.SHM_MB
    disk_mb: int | None = None

    @property
    def file_bytes(self) -> int | None:
        """What no single file may exceed; files in ``/dev/shm`` are files too."""
        return None if self.disk_mb is None else max(self.disk_mb, self.shm_mb) << 20


@dataclass(frozen=True, slots=True)
class Inline:
    """A file whose bytes travel over a descriptor, so that no path of this machine stands behind it."""

    option: str
    target: str
    content: bytes


@dataclass(frozen=True)
class LaunchPlan:
    """One run of one program.

    `workspace` is a folder of this machine with ``in/ out/ tmp/ home/ program/`` and ``stage.json``; `mounts` bring
    the environment; `symlinks` maps a place inside to what it says; `environment` adds variables to the fixed ones;
    `root` is the root file system of an image, None for a bare one, and `image` the image's
    name with its digest; `masked` are the paths of `abi.MASKED` and `abi.EMPTIED` that this kernel has; `gpu` are the
    GPUs that were leased for it.
    """

    argv: tuple[str, ...]
    workspace: str
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network: bool = False
    root: str | None = None
    image: str = ""
    symlinks: Mapping[str, str] = field(default_factory=dict)
    masked: tuple[str, ...] = (*abi.MASKED, *abi.EMPTIED)
    gpu: GpuAccess | None = None

    def sources(self) -> tuple[str, ...]:
        """Every path of this machine that is bound, each once, in the order of `bwrap_args`."""
        bound = [] if self.root is None else [self.root]
        bound += [source for _, source, _ in self._workspace_binds()]
        bound += [mount.source for mount in self.mounts]
        bound += [source for _, source, _ in self._gpu_binds()]
        return tuple(dict.fromkeys(bound))

    def inline(self) -> tuple[Inline, ...]:
        """The files that come over descriptors, in the order of `bwrap_args`."""
        option = "--file" if self.root is None else "--ro-bind-data"  # over the image's own
        files = [Inline(option, f"/etc/{name}", text.encode()) for name, text in abi.ETC.items()]
        masks = [
            Inline("--ro-bind-data", path, abi.MASKED[path].encode()) for path in self.masked if path in abi.MASKED
        ]
        return (*files, *masks)

    def variables(self) -> dict[str, str]:
        """The whole environment of the program; the fixed variables win over what a stage asks for.

        Of an image's ``PATH`` nothing is lost: its tools lie where it says, behind those of the environment's wheels.
        """
        fixed = dict(abi.VARIABLES)
        if self.root is not None and self.environment.get("PATH"):
            fixed["PATH"] = f"{abi.ENV_PATH}:{self.environment['PATH']}"
        if self.gpu is not None:
            fixed |= self.gpu.variables(self.environment.get("LD_LIBRARY_PATH", ""))
        return dict(sorted({**self.environment, **fixed}.items()))

    def bwrap_args(
        self,
        *,
        source: Callable[[str], str] = str,
        descriptors: Sequence[int] | None = None,
        seccomp: int | None = None,
        status: int | None = None,
        block: int | None = None,
    ) -> list[str]:
        """The arguments of ``bwrap``, as they run.

        `source` maps a bound path to where the launcher sees it (root binds each to a neutral place first);
        `descriptors` are the open files behind `inline`; without them they count from 10, as a printed command's do.
        Of the open files `seccomp`, `status` and `block` the last holds the program back until it can be read.
        """
        numbers = descriptors or range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + len(self.inline()))
        args = [*self._namespaces(), *self._root(source)]
        args += [word for folder in abi.FOLDERS for word in ("--perms", "0755", "--dir", folder)]
        args += [word for option, origin, place in self._workspace_binds() for word in (option, source(origin), place)]
        args += [word for mount in self.mounts for word in ("--ro-bind", source(mount.source), mount.target)]
        args += [word for option, origin, place in self._gpu_binds() for word in (option, source(origin), place)]
        args += [word for place, text in self.links() for word in ("--symlink", text, place)]
        for file, number in zip(self.inline(), numbers, strict=True):
            args += [*_permissions(file), file.option, str(number), file.target]
        for folder in (path for path in self.hidden() if path in abi.EMPTIED):
            args += ["--tmpfs", folder, "--remount-ro", folder]
        args += [] if self.root is None else ["--remount-ro", abi.BUILD]
        args += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", abi.CWD, "--clearenv"]
        args += [word for name, value in self.variables().items() for word in ("--setenv", name, value)]
        args += [] if seccomp is None else ["--seccomp", str(seccomp)]
        args += [] if status is None else ["--json-status-fd", str(status)]
        args += [] if block is None else ["--block-fd", str(block)]
        return [*args, "--", *self.argv]

    def podman_args(
        self,
        name: str = "hermetic",
        *,
        ids: Ids = None,
        ulimits: Mapping[str, tuple[int, int]] | None = None,
        interactive: bool = False,
    ) -> list[str]:
        """The arguments of ``podman``, as they run. `ids` are the build's user and group where root starts it."""
        return containers.podman_args(self, name, ids=ids, ulimits=ulimits, interactive=interactive)

    def docker_args(self, name: str = "hermetic") -> list[str]:
        """The arguments of ``docker``; only for a stage in an image, which docker brings by its digest."""
        return containers.docker_args(self, name)

    def _namespaces(self) -> list[str]:
        args = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        args += [] if self.network else ["--unshare-net"]
        args += ["--disable-userns", "--uid", str(abi.UID), "--gid", str(abi.GID), "--hostname", abi.HOST_NAME]
        return [*args, "--cap-drop", "ALL", "--new-session", "--die-with-parent"]

    def _root(self, source: Callable[[str], str]) -> list[str]:
        args = [] if self.root is None else ["--ro-bind", source(self.root), "/"]
        args += ["--proc", "/proc", "--dev", "/dev"]
        if self.root is not None:  # nothing can be made in it any more, except where it has a folder
            args += ["--perms", "0755", "--tmpfs", abi.BUILD]
        return [*args, "--perms", "1777", "--size", str(self.limits.shm_mb << 20), "--tmpfs", "/dev/shm"]  # noqa: S108

    def _workspace_binds(self) -> Iterator[tuple[str, str, str]]:
        for name in abi.WORKSPACE_READ_ONLY:
            yield "--ro-bind", f"{self.workspace}/{name}", f"{abi.BUILD}/{name}"
        for name in abi.WORKSPACE_WRITABLE:
            yield "--bind", f"{self.workspace}/{name}", f"{abi.BUILD}/{name}"
        if self.root is not None:
            for place in abi.SYMLINKS:  # which an image has as folders
                yield "--bind", f"{self.workspace}/tmp", place  # noqa: S108  # a folder of the workspace

    def _gpu_binds(self) -> Iterator[tuple[str, str, str]]:
        if self.gpu is not None:
            yield from (("--ro-bind", source, place) for source, place in self.gpu.libraries)
            yield from (("--dev-bind", node, node[node.rindex("/dev/") :]) for node in self.gpu.nodes)

    def hidden(self) -> tuple[str, ...]:
        """`masked`, less what the driver of a GPU reads of itself."""
        return tuple(path for path in self.masked if self.gpu is None or path != "/proc/driver")

    def links(self) -> Iterator[tuple[str, str]]:
        """Symlinks of a bare root, by place.

        A mount at one of our places, below or above it wins (a `Host` may list ``/var`` or ``/tmp/tool``).
        """
        targets = [mount.target for mount in self.mounts]
        for place, text in {**abi.SYMLINKS, **self.symlinks}.items():
            taken = any(is_within(place, target) or is_within(target, place) for target in targets)
            if not taken and self.root is None:
                yield place, text


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return path == folder or path.startswith(f"{folder}/")


def _permissions(file: Inline) -> list[str]:
    return ["--perms", "0444"] if file.target.startswith("/etc/") else []
