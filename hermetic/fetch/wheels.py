"""Installs exactly what a wheel lock lists into a folder, with uv, so that the folder says nothing of this machine."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.indexes import Indexes, find_indexes
from hermetic.fetch.mortal import dies_with_driver
from hermetic.fetch.wheel_lock import WheelLock
from hermetic.fetch.wheel_tree import clean

__all__ = ["Suiting", "find_uv", "install"]

_POLL_S: Final = 0.4
#: Minor versions of glibc 2 that uv's ``--python-platform`` has names for.
_MANYLINUX: Final = (17, 28, *range(31, 41))
_KEPT_VARIABLES: Final = re.compile(r"(?i)(UV_.*|.*_proxy|SSL_CERT_DIR|NETRC|PATH|LANG|HOME)")
_OWN_VARIABLES: Final = ("UV_CACHE_DIR", "UV_TARGET", "UV_PYTHON", "UV_NO_CACHE", "UV_OFFLINE", "UV_COMPILE_BYTECODE")


@dataclass(frozen=True, slots=True)
class Suiting:
    """A Python that is not at hand: its `version` ("3.12.3" or "3.12") and the glibc it stands on ("2.39")."""

    version: str
    libc: str

    def arguments(self) -> tuple[str, ...]:
        """For uv, which knows some versions of glibc: the newest of them that is no newer.

        Raises `HermeticError` (environment/unsupported-interpreter) for a glibc that no wheels are made for.
        """
        major, minor = (int(part) for part in self.libc.split(".")[:2])
        known = [each for each in _MANYLINUX if (2, each) <= (major, minor)]
        if not known:
            message = f"there are no wheels for glibc {self.libc}; the oldest that they are made for is 2.17"
            raise HermeticError(Domain.ENVIRONMENT, "unsupported-interpreter", message)
        platform = f"{os.uname().machine}-manylinux_2_{max(known)}"
        return ("--python-version", self.version, "--python-platform", platform)


def find_uv() -> str:
    """The path of uv: the one installed beside hermetic, else the one on PATH.

    Raises `HermeticError` (environment/no-uv).
    """
    try:
        from uv import find_uv_bin  # noqa: PLC0415  # optional

        return os.fspath(find_uv_bin())
    except (ImportError, FileNotFoundError):
        pass
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    found = beside if os.access(beside, os.X_OK) else shutil.which("uv")
    if found is None:
        message = "uv, which downloads and unpacks wheels, is not installed"
        raise HermeticError(Domain.ENVIRONMENT, "no-uv", message, hint=f"{sys.executable} -m pip install uv")
    return found


async def install(
    lock: WheelLock,
    target: str,
    *,
    python: str,
    scratch: str,
    shebang: str,
    indexes: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
    suiting: Suiting | None = None,
) -> None:
    """Install the wheels of `lock` that suit the interpreter `python`, or else `suiting`, into the folder `target`.

    Everything is written below `target` and the folder `scratch`. Scripts start with `shebang`. `progress` is told
    the bytes that have arrived so far. The result depends on the lock and on the interpreter's version and platform
    only. Nothing is executed from a wheel.

    Raises `HermeticError`: hash/wheel-mismatch, environment/index-unreachable, environment/wheel-not-found,
    environment/no-uv, environment/disk-full, environment/wheels-failed.
    """
    listing = _lay_out(lock, target, scratch)
    if not lock.pins:
        return
    found = find_indexes(indexes or {}, os.environ)
    command = [*_command(find_uv(), python, target, listing, found), *(suiting.arguments() if suiting else ())]
    said, status = await _run(command, _variables(scratch, found), scratch, progress)
    if status != 0:
        raise _explain(said)
    await asyncio.to_thread(clean, target, f"{scratch}/cache", shebang)


def _lay_out(lock: WheelLock, target: str, scratch: str) -> str:
    os.makedirs(f"{scratch}/cache", exist_ok=True)
    os.makedirs(target, exist_ok=True)
    listing = f"{scratch}/lock.txt"
    with open(listing, "w", encoding="utf-8") as stream:
        stream.write(lock.text())
    return listing


def _command(uv: str, python: str, target: str, listing: str, indexes: Indexes) -> list[str]:
    fixed = "--no-deps --require-hashes --only-binary :all: --link-mode copy --no-python-downloads --no-progress"
    # Hashes pin what is taken, so it does not matter which index has it.
    sources = ["--index-strategy", "unsafe-best-match", *indexes.arguments]
    return [uv, "pip", "install", *fixed.split(), "--python", python, "--target", target, *sources, "-r", listing]


def _variables(scratch: str, indexes: Indexes) -> dict[str, str]:
    """The user's proxies, tokens and uv settings; where uv writes is ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if _KEPT_VARIABLES.fullmatch(name) and name not in _OWN_VARIABLES
    }
    ours = {
        "UV_CACHE_DIR": f"{scratch}/cache",
        "UV_PYTHON_INSTALL_DIR": f"{scratch}/python",
        "TMPDIR": scratch,
        "LC_ALL": "C.UTF-8",
    }
    if indexes.certificates:
        ours["SSL_CERT_FILE"] = indexes.certificates
    return kept | ours


async def _run(
    command: list[str], variables: Mapping[str, str], scratch: str, progress: Callable[[int], None] | None
) -> tuple[str, int]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(variables),
        cwd=scratch,
        start_new_session=True,
        preexec_fn=dies_with_driver(),
    )
    watch = asyncio.create_task(_watch(f"{scratch}/cache", progress)) if progress is not None else None
    try:
        said, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    finally:
        if watch is not None:
            watch.cancel()
    return said.decode(errors="replace"), process.returncode or 0


async def _watch(folder: str, progress: Callable[[int], None]) -> None:
    while True:
        await asyncio.sleep(_POLL_S)
        progress(await asyncio.to_thread(_size, folder))


def _size(folder: str) -> int:
    """Bytes of all files below `folder`, some of which come and go meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(f"{place}/{name}").st_size
            except FileNotFoundError:
                continue
    return total


_UNREACHABLE: Final = (
    r"error sending request|client error|dns error|[Cc]onnect(ion)? (refused|reset|error)|timed out|Failed to fetch"
    r"|Request failed|tcp connect|certificate"
)
_REASONS: Final = (
    (r"[Hh]ash mismatch|do not match the expected hash", Domain.HASH, "wheel-mismatch", ""),
    (
        _UNREACHABLE,
        Domain.ENVIRONMENT,
        "index-unreachable",
        "check the network and the package index (PIP_INDEX_URL, UV_DEFAULT_INDEX or hermetic's own configuration)",
    ),
    (
        r"was not found in|no version of|[Nn]o wheels|has no wheels|no usable wheels|not found in the provided",
        Domain.ENVIRONMENT,
        "wheel-not-found",
        "name an index that has it (PIP_EXTRA_INDEX_URL, UV_INDEX or hermetic's own configuration), or lock anew",
    ),
    (r"No space left on device", Domain.ENVIRONMENT, "disk-full", "free some space where the store lies"),
)


def _explain(said: str) -> HermeticError:
    shown = "\n".join(said.strip().splitlines()[-12:])
    for pattern, domain, reason, hint in _REASONS:
        if re.search(pattern, said):
            return HermeticError(domain, reason, f"the wheels could not be installed: {shown}", hint=hint or None)
    return HermeticError(Domain.ENVIRONMENT, "wheels-failed", f"uv could not install the wheels: {shown}")
