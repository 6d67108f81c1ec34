"""Which wheels of a lock file a declared Python takes, by name: Nix fetches each alone and so must know it beforehand.

uv asks the index which files a lock's versions have; which of those suits best is decided by their tags (PEP 425), as
uv itself decides. The answer holds for as long as the lock does, so it is kept in the exported file.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.indexes import find_indexes
from hermetic.fetch.wheel_lock import WheelLock
from hermetic.fetch.wheels import find_uv

__all__ = ["SYSTEMS", "Wheel", "choose", "listed"]

#: Nix's systems and the machine in their wheels' tags.
SYSTEMS: Final[Mapping[str, str]] = {"aarch64-linux": "aarch64", "x86_64-linux": "x86_64"}

_NEWEST: Final = 35  # of glibc 2: wheels for it run on every newer one, nixpkgs' included
_LEGACY: Final = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}

Wheel = dict[str, str]


def choose(lock: WheelLock, python: str, system: str, indexes: Mapping[str, str]) -> list[Wheel]:
    """The wheel of every package of `lock` for Python `python` ("3.11") on `system`, in the lock's order.

    Each has `name`, `version`, `file` and `sha256`. Packages whose marker excludes the system are left out.

    Raises `HermeticError`: environment/no-uv, environment/index-unreachable, environment/wheel-not-found.
    """
    if not lock.pins:
        return []
    ranks = {tag: rank for rank, tag in enumerate(_tags(python, SYSTEMS[system]))}
    hashes = {digest for pin in lock.pins for digest in pin.hashes}
    return [_best(package, ranks, hashes, system) for package in listed(lock, python, system, indexes)]


def listed(lock: WheelLock, python: str, system: str, indexes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every file that the index has of the packages of `lock`: PEP 751's ``packages``, with addresses and hashes.

    Raises `HermeticError` as `choose`.
    """
    found = find_indexes(indexes, os.environ)
    platform = f"{SYSTEMS[system]}-manylinux_2_{_NEWEST}"
    with tempfile.TemporaryDirectory() as scratch:
        listing = os.path.join(scratch, "lock.txt")
        with open(listing, "w", encoding="utf-8") as stream:
            stream.write(lock.text())
        command = [find_uv(), "pip", "compile", "--quiet", "--no-deps", "--format", "pylock.toml", "--no-header"]
        command += ["--python-version", python, "--python-platform", platform, "--index-strategy", "unsafe-best-match"]
        command += [*found.arguments, listing]
        variables = os.environ | ({"SSL_CERT_FILE": found.certificates} if found.certificates else {})
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=scratch)
    if "no wheels with a matching" in done.stderr:
        raise HermeticError(Domain.ENVIRONMENT, "wheel-not-found", done.stderr.strip()[-800:])
    if done.returncode != 0:
        message = f"the index does not say which wheels the lock means: {done.stderr.strip()[-800:]}"
        hint = "check the network and the package index (UV_DEFAULT_INDEX, PIP_INDEX_URL)"
        raise HermeticError(Domain.ENVIRONMENT, "index-unreachable", message, hint=hint)
    packages: list[dict[str, Any]] = tomllib.loads(done.stdout)["packages"]
    return packages


def _best(package: Mapping[str, Any], ranks: Mapping[Tag, int], hashes: Iterable[str], system: str) -> Wheel:
    suiting = [
        (min(ranks[tag] for tag in tags & ranks.keys()), file, wheel["hashes"]["sha256"])
        for wheel in package.get("wheels", ())
        for file in [wheel.get("name") or unquote(urlsplit(wheel["url"]).path.rpartition("/")[2])]
        if (tags := parse_wheel_filename(file)[3]) & ranks.keys() and wheel["hashes"]["sha256"] in hashes
    ]
    if not suiting:
        message = f"no wheel of {package['name']} {package['version']} that the lock lists is for {system}"
        raise HermeticError(Domain.ENVIRONMENT, "wheel-not-found", message, hint="lock a version that has one")
    _, file, digest = min(suiting)
    return {"name": package["name"], "version": package["version"], "file": file, "sha256": digest}


def _tags(python: str, machine: str) -> Iterable[Tag]:
    version = tuple(int(part) for part in python.split("."))
    platforms = list(_platforms(machine))
    yield from cpython_tags(version, platforms=platforms)
    yield from compatible_tags(version, f"cp{version[0]}{version[1]}", platforms)


def _platforms(machine: str) -> Iterable[str]:
    for minor in range(_NEWEST, 4, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine}"
    yield f"linux_{machine}"
