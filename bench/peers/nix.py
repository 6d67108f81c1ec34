"""A flake of five derivations in a chain, built with a static busybox in a store of its own, with no network.

No nixpkgs: each stage is a raw `derivation` that writes a small file, so that what is timed is Nix, not its builders.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from bench.place import Place
from bench.timing import Command

__all__ = ["available", "busybox", "leaf_changed", "noop"]

_FLAKE = """{
  outputs = { self }: let
    busybox = builtins.path { path = ./busybox; name = "busybox"; };
    stage = name: input: derivation {
      inherit name input;
      system = "%(system)s";
      builder = "${busybox}/busybox";
      args = [ "sh" "-c" "echo ${name} $input > $out" ];
    };
    weights = stage "weights" "";
    quantised = stage "quantised" weights;
    engine = stage "engine" quantised;
    manifest = stage "manifest" engine;
    smoke = stage "smoke%(leaf)s" manifest;
  in { packages.%(system)s.default = smoke; };
}
"""


def available() -> bool:
    return shutil.which("nix") is not None and busybox() is not None


def busybox() -> str | None:
    """A *static* one: the sandbox has no libraries."""
    return next((path for path in ("/bin/busybox", "/usr/bin/busybox") if Path(path).exists()), None)


def noop(place: Place, kind: str) -> Command:
    """``nix build`` of a flake that is a plain folder (`kind` "path") or a git repository ("git")."""
    folder = place.below(f"nix-{kind}")
    _write(folder, leaf="")
    if kind == "git":
        _commit(place, folder)
    return _build(place, f"{'git+file' if kind == 'git' else 'path'}:{folder}")


def leaf_changed(place: Place, number: int) -> Command:
    """The same build after its last stage was given another name."""
    folder = place.below("nix-leaf")
    _write(folder, leaf=str(number))
    return _build(place, f"path:{folder}")


def _write(folder: Path, leaf: str) -> None:
    program = busybox()
    assert program is not None
    (folder / "busybox").mkdir(exist_ok=True)
    shutil.copy(program, folder / "busybox" / "busybox")
    (folder / "flake.nix").write_text(_FLAKE % {"system": f"{platform.machine()}-linux", "leaf": leaf})


def _commit(place: Place, folder: Path) -> None:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "flake"]):
        subprocess.run(["git", *arguments], cwd=folder, env=place.env() | {"PATH": "/usr/bin:/bin"}, check=True)


def _build(place: Place, flake: str) -> Command:
    options = {"substituters": "", "experimental-features": "nix-command flakes"}
    return Command(
        [
            *("nix", "build", flake, "--store", str(place.folder / "nix-store"), "--out-link", "nix-result"),
            *(word for option in options.items() for word in ("--option", *option)),
        ],
        cwd=place.below("cwd"),
        env=place.env() | {"NIX_REMOTE": ""},
    )
