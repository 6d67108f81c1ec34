"""A `LaunchPlan` as ``podman run`` and ``docker run`` take it: the places, variables and limits that bubblewrap gives.

What cannot be the same is listed in `docs/images.md`: an engine adds a few files of its own (``/run/.containerenv``,
``/etc/hostname``) and the variable ``HOSTNAME``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hermetic.sandbox import abi

if TYPE_CHECKING:
    from hermetic.sandbox.plan import LaunchPlan

__all__ = ["Ids", "docker_args", "podman_args"]

_NO_LIMIT: Final = frozenset({"AS", "NICE", "RTPRIO"})  # which engines have no option for, or refuse without privilege
_SMALL: Final = 1 << 20  # bytes of folders that only hold mounts

#: Which user of this machine the stage's user is: ``None`` for whoever runs podman, else user and group.
Ids = tuple[int, int] | None


def podman_args(
    plan: LaunchPlan,
    name: str,
    *,
    ids: Ids = None,
    ulimits: Mapping[str, tuple[int, int]] | None = None,
    interactive: bool = False,
) -> list[str]:
    """The arguments of ``podman``. The root is what hermetic unpacked (or ``WORKSPACE/root``), below an overlay. The
    program has a standard input if it is `interactive`.
    """
    args = ["run", "--name", name, "--label", "hermetic", *(["--interactive"] if interactive else [])]
    args += _common(plan, ulimits)
    args += ["--read-only-tmpfs=false", "--http-proxy=false", "--unsetenv-all", "--passwd=false", "--systemd=false"]
    args += ["--no-hosts", "--umask", f"{abi.UMASK:04o}", "--log-driver", "none", "--cgroupns", "private"]
    args += _users(ids)
    args += [word for folder in (abi.BUILD, abi.ENV, "/sys", "/sys/fs/cgroup") for word in ("--mount", _tmpfs(folder))]
    args += [word for source, target, writable in _binds(plan) for word in ("--mount", _bind(source, target, writable))]
    hidden = plan.hidden()
    args += ["--security-opt", f"mask={':'.join(hidden)}"] if hidden else []
    args += _devices(plan)
    args += _variables(plan)
    root = plan.root or f"{plan.workspace}/root"
    return [*args, "--entrypoint", "[]", "--rootfs", f"{root}:O", *plan.argv]


def docker_args(plan: LaunchPlan, name: str) -> list[str]:
    """The arguments of ``docker``, which pulls the image by its digest itself. Never run by hermetic's own tests.

    Files that the stage leaves belong to user 1000 of this machine, since docker maps users for all containers alike
    or not at all: the folders ``out``, ``tmp`` and ``home`` of the workspace must be theirs.
    """
    args = ["run", "--name", name, "--label", "hermetic", *_common(plan, None), "--pull", "missing"]
    args += ["--user", f"{abi.UID}:{abi.GID}", "--cgroupns", "private", "--entrypoint", ""]
    args += [word for place in (abi.BUILD, abi.ENV) for word in ("--tmpfs", f"{place}:mode=0755,size={_SMALL}")]
    for source, target, writable in _binds(plan):
        args += ["--mount", _bind(source, target, writable)]
    if plan.gpu is not None:
        args += ["--gpus", f'"device={",".join(plan.gpu.uuids)}"']
    return [*args, *_variables(plan), plan.image, *plan.argv]


def _common(plan: LaunchPlan, ulimits: Mapping[str, tuple[int, int]] | None) -> list[str]:
    args = ["--rm", "--init", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    args += ["--network", "host" if plan.network else "none"]
    args += ["--hostname", abi.HOST_NAME, "--workdir", abi.CWD, "--shm-size", f"{plan.limits.shm_mb}m"]
    args += _memory(plan)
    args += ["--pids-limit", "-1" if plan.limits.processes is None else str(plan.limits.processes)]
    own = {} if plan.limits.file_bytes is None else {"FSIZE": (plan.limits.file_bytes, plan.limits.file_bytes)}
    for which, (soft, hard) in {**(ulimits or abi.LIMITS), **own}.items():
        if which not in _NO_LIMIT:
            args += ["--ulimit", f"{which.lower()}={soft}:{hard}"]
    return args


def _memory(plan: LaunchPlan) -> list[str]:
    """Swap is no way around a limit; and when the machine itself has no memory left, a stage is the first to go."""
    first = ["--oom-score-adj", str(abi.OOM_SCORE)]
    most = plan.limits.memory_mb
    return first if most is None else [*first, "--memory", f"{most}m", "--memory-swap", f"{most}m"]


def _users(ids: Ids) -> list[str]:
    """Inside it is always user 1000; outside the build's user for root, and for everybody else themselves."""
    if ids is None:
        return ["--userns", f"keep-id:uid={abi.UID},gid={abi.GID}"]
    args = ["--user", f"{abi.UID}:{abi.GID}"]
    for option, inside, outside in (("--uidmap", abi.UID, ids[0]), ("--gidmap", abi.GID, ids[1])):
        others = 100_000  # owners of nothing that a stage makes
        args += [option, f"{inside}:{outside}:1", option, f"0:{others}:{inside}"]
        args += [option, f"{inside + 1}:{others + inside}:{65535 - inside}"]
    return args


def _binds(plan: LaunchPlan) -> Iterator[tuple[str, str, bool]]:
    for name in abi.WORKSPACE_READ_ONLY:
        yield f"{plan.workspace}/{name}", f"{abi.BUILD}/{name}", False
    for name in abi.WORKSPACE_WRITABLE:
        yield f"{plan.workspace}/{name}", f"{abi.BUILD}/{name}", True
    if plan.root is not None:
        for place in abi.SYMLINKS:  # which an image has as folders
            yield f"{plan.workspace}/tmp", place, True  # noqa: S108  # a folder of the workspace
    for name in abi.ETC:
        yield f"{plan.workspace}/etc/{name}", f"/etc/{name}", False
    for mount in plan.mounts:
        yield mount.source, mount.target, False
    for source, target in () if plan.gpu is None else plan.gpu.libraries:
        yield source, target, False


def _devices(plan: LaunchPlan) -> Iterator[str]:
    """By CDI where this machine describes its GPUs so, else their device files."""
    if plan.gpu is not None:
        for device in plan.gpu.cdi or plan.gpu.nodes:
            yield from ("--device", device)


def _bind(source: str, target: str, writable: bool) -> str:
    fields = ["type=bind", f"src={source}", f"dst={target}", *([] if writable else ["ro=true"])]
    return ",".join(f'"{text}"' if "," in text else text for text in fields)


def _tmpfs(folder: str) -> str:
    return f"type=tmpfs,dst={folder},tmpfs-mode=0755,tmpfs-size={_SMALL},notmpcopyup"


def _variables(plan: LaunchPlan) -> list[str]:
    return [word for name, value in plan.variables().items() for word in ("--env", f"{name}={value}")]
