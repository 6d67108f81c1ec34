"""Commands of Nix against a store of a test's own."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hermetic.recipe import Memo, Source
from hermetic.recipe.source import hash_source
from hermetic.testing.trtllm.image import StandinImage

__all__ = ["Done", "Nix", "run_nix", "tree"]


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str
    exit_code: int

    @property
    def built(self) -> list[str]:
        """Names of the derivations that were built, in order."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("building '/nix/store/")]
        return [line.split("'")[1].rpartition("/")[2].partition("-")[2].removesuffix(".drv") for line in lines]


@dataclass(frozen=True)
class Nix:
    """`flake` is a copy of this checkout, `root` the store's folder, `standin` the input that replaces nixpkgs."""

    flake: Path
    root: Path
    standin: str
    image: StandinImage

    def __call__(self, *words: str, flake: Path | None = None, prefix: str = "", ok: bool = True) -> Done:
        """``nix("build", "#tiny-engine")``; `prefix` is how `flake` calls the input that has nixpkgs."""
        place = flake or self.flake
        named = [f"path:{place}{word}" if word.startswith("#") or word == "" else word for word in words]
        verb = named[:2] if named[0] == "flake" else named[:1]
        options = ["--override-input", f"{prefix}nixpkgs", f"path:{self.standin}", "--no-write-lock-file"]
        done = run_nix(self.root, *verb, *options, *named[len(verb) :])
        assert not ok or done.exit_code == 0, done.stderr
        return done

    def build(self, name: str, *, flake: Path | None = None, prefix: str = "", ok: bool = True) -> tuple[Path, Done]:
        """Build a package; its output as this machine sees it."""
        done = self("build", f"#{name}", "--no-link", "--json", "-L", flake=flake, prefix=prefix, ok=ok)
        if done.exit_code:
            return self.root, done
        (built,) = json.loads(done.stdout)
        return Path(f"{self.root}{built['outputs']['out']}"), done

    def paths(self) -> set[str]:
        """Everything in the store."""
        return set(os.listdir(self.root / "nix/store"))


def tree(path: Path | str) -> str:
    """The tree digest of a folder, by whichever driver it was made."""
    return hash_source(Source(os.fspath(path)), Memo()).hex


def run_nix(root: Path, *words: str) -> Done:
    options = {
        "build-users-group": "",
        "experimental-features": "nix-command flakes",
        "sandbox": "true",
        "sandbox-fallback": "false",
        "substituters": "",
        "warn-dirty": "false",
    }
    given = [word for name, value in options.items() for word in ("--option", name, value)]
    done = subprocess.run(
        ["nix", "--store", str(root), *given, *words], capture_output=True, text=True, check=False, cwd=root
    )
    return Done(done.stdout, done.stderr, done.returncode)
