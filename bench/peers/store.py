"""Nix's store doing what ours does: taking in files and folders, verifying, evaluating, building many small things.

A store in the folder of the bench, one user, no daemon, no substituters and, as Debian's package sets it, no sandbox.
"""

from __future__ import annotations

import platform
from pathlib import Path

from bench.place import Place
from bench.timing import Command

__all__ = ["add", "build", "delete", "instantiate", "stage_copying", "verify"]

_SYSTEM = f"{platform.machine()}-linux"


def _command(place: Place, *words: str) -> Command:
    features = ("--option", "experimental-features", "nix-command", "--option", "substituters", "")
    program, *rest = words
    arguments = [program, *rest, *features, "--option", "sandbox", "false"]
    # Not --store: Nix would then build in a chroot, in which there is no shell.
    places = {"STORE_DIR": "store", "STATE_DIR": "var", "LOG_DIR": "log", "LOCALSTATE_DIR": "var"}
    moved = {f"NIX_{name}": str(place.folder / "nix" / folder) for name, folder in places.items()}
    return Command(arguments, cwd=place.below("cwd"), env=place.env() | moved | {"NIX_REMOTE": ""})


def add(place: Place, path: Path) -> Command:
    """``nix store add-path``, which prints the store path."""
    return _command(place, "nix", "store", "add-path", str(path))


def stage_copying(place: Place, source: Path, number: int) -> Command:
    """A derivation whose builder copies `source`, a file, to its output; `number` makes it another one each time."""
    builder = f"exec /bin/cp {source} $out"
    return _command(place, "nix-build", "--no-out-link", "--expr", _derivation(f"copy-{number}", builder))


def verify(place: Place, path: str) -> Command:
    return _command(place, "nix-store", "--verify-path", path)


def delete(place: Place, path: str) -> Command:
    return _command(place, "nix-store", "--delete", path)


def instantiate(place: Place, count: int, *, chain: bool = False) -> Command:
    """``nix-instantiate`` of `count` derivations that one more needs, or of a chain of them."""
    return _command(place, "nix-instantiate", str(_many(place, count, chain=chain)))


def build(place: Place, count: int, jobs: int) -> Command:
    """Build `count` derivations that each write a small file, and one that needs them all."""
    return _command(place, "nix-build", "--no-out-link", str(_many(place, count)), "-j", str(jobs))


def _many(place: Place, count: int, *, chain: bool = False) -> Path:
    file = place.below("expressions") / f"{'chain' if chain else 'fan'}-{count}.nix"
    stage = f"n: before: {_derivation('s${toString n}', 'echo ${toString n} > $out', 'inherit before;')}"
    if chain:
        folded = f'builtins.foldl\' (before: n: stage n before) "" (builtins.genList (n: n) {count})'
        text = f"let stage = {stage}; in {folded}"
    else:
        inputs = f'inputs = builtins.genList (n: stage n "") {count};'
        text = f"let stage = {stage}; in {_derivation('all', 'echo all > $out', inputs)}"
    file.write_text(text, "utf-8")
    return file


def _derivation(name: str, script: str, more: str = "") -> str:
    return (
        f'derivation {{ name = "{name}"; system = "{_SYSTEM}"; builder = "/bin/sh"; '
        f'args = [ "-c" "{script}" ]; {more} }}'
    )
