"""Finds bubblewrap and says, where it cannot work, the one command that mends it."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import subprocess
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.sandbox import launch

__all__ = ["available", "bubblewrap", "explain", "no_mounting", "no_sandbox", "not_for_others", "refused"]

_OLDEST: Final = (0, 8, 0)  # has --disable-userns
_INSTALL: Final = "apt-get install bubblewrap"


def no_sandbox(message: str, hint: str) -> HermeticError:
    return HermeticError(Domain.ENVIRONMENT, "no-sandbox", message, hint=hint)


def bubblewrap() -> str:
    """The path of ``bwrap``. Raises `HermeticError` (environment/no-sandbox) if there is none or it is too old."""
    return _checked(os.environ.get("PATH", os.defpath))


@functools.cache
def _checked(path: str) -> str:
    found = shutil.which("bwrap", path=f"{path}:/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise no_sandbox("bubblewrap (bwrap) is not installed, and stages run only inside it", _INSTALL)
    version = _version(found)
    if version < _OLDEST:
        text = ".".join(map(str, version))
        oldest = ".".join(map(str, _OLDEST))
        raise no_sandbox(f"{found} is version {text}; stages need {oldest} or newer", _INSTALL)
    return os.path.realpath(found)


def _version(tool: str) -> tuple[int, ...]:
    result = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", result.stdout)
    if match is None:
        raise no_sandbox(f"{tool} --version says {result.stdout.strip() or result.stderr.strip()!r}", _INSTALL)
    return tuple(int(part or 0) for part in match.groups())


def available() -> str:
    """Try an empty sandbox as the user that stages would have; returns the path of bubblewrap.

    Raises `HermeticError` (environment/no-sandbox) with the command that mends it.
    """
    tool = bubblewrap()
    command = [tool, "--unshare-user", "--unshare-pid", "--unshare-net", "--disable-userns", "--ro-bind", "/", "/"]
    command += ["--proc", "/proc", "true"]
    identity: dict[str, Any] = {}
    if launch.drops_privileges():
        if not launch.may_mount():
            raise no_mounting("root here may not mount")
        identity = {"user": launch.BUILD_UID, "group": launch.BUILD_GID, "extra_groups": []}
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **identity)
    except PermissionError as error:
        raise not_for_others(tool) from error
    if result.returncode != 0:
        raise explain(result.stderr)
    return tool


def no_mounting(message: str) -> HermeticError:
    hint = "start the container with --privileged or --cap-add SYS_ADMIN, or run hermetic as an ordinary user"
    return no_sandbox(f"{message}, which a root's build needs to hide the rest of the machine", hint)


def not_for_others(tool: str) -> HermeticError:
    return no_sandbox(f"root's builds run as another user, who may not execute {tool}", _INSTALL)


def refused(said: str) -> HermeticError:
    """The error behind a process that did not come to bubblewrap: an error's number, and what it could not do."""
    number, _, text = said.partition(" ")
    if number == str(errno.EACCES) and text.startswith("execute "):
        return not_for_others(text.split()[1].rstrip(":"))
    message = f"the stage's process could not {text}"
    if number == str(errno.EPERM):
        return no_mounting(message)
    return HermeticError(Domain.ENVIRONMENT, "sandbox-failed", message)


def explain(said: str) -> HermeticError:
    """The error behind what bubblewrap said when it could not start a stage."""
    said = said.strip() or "nothing"
    if "namespace" in said.lower() or "uid map" in said or "max_user_namespaces" in said:
        return no_sandbox(f"this machine does not let bubblewrap make a user namespace; it said: {said}", _namespaces())
    if "mount proc" in said.lower() or "on /newroot/proc" in said:
        hint = "in a container: start it with --security-opt systempaths=unconfined (docker) or unmask=ALL (podman)"
        return no_sandbox(f"this machine does not let bubblewrap mount /proc; it said: {said}", hint)
    return HermeticError(Domain.ENVIRONMENT, "sandbox-failed", f"bubblewrap could not start the stage; it said: {said}")


def _namespaces() -> str:
    for name, wanted in (
        ("kernel.apparmor_restrict_unprivileged_userns", 0),
        ("kernel.unprivileged_userns_clone", 1),
    ):
        if _setting(name) not in {None, wanted}:
            return f"sysctl -w {name}={wanted}"
    if _setting("user.max_user_namespaces") == 0:
        return "sysctl -w user.max_user_namespaces=15000"
    return "in a container: start it with --privileged, or with a seccomp profile that allows unshare and mount"


def _setting(name: str) -> int | None:
    try:
        with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return None
