"""Commands of Nix against a store of a test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermetic.recipe import Memo, Source
from hermetic.recipe.source import hash_source
from hermetic.testing.trtllm.image import StandinImage

__all__ = ["Done", "Machine", "Nix", "locked", "run_nix", "tree"]

_OPTIONS = {
    "build-users-group": "",
    "experimental-features": "nix-command flakes",
    "max-jobs": "2",
    "sandbox": "true",
    "sandbox-fallback": "false",
    "substituters": "",
    "warn-dirty": "false",
}


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

    def build(
        self, name: str, *options: str, flake: Path | None = None, prefix: str = "", ok: bool = True
    ) -> tuple[Path, Done]:
        """Build a package; its output as this machine sees it."""
        done = self("build", f"#{name}", "--no-link", "--json", "-L", *options, flake=flake, prefix=prefix, ok=ok)
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
    given = [word for name, value in _OPTIONS.items() for word in ("--option", name, value)]
    done = subprocess.run(
        ["nix", "--store", str(root), *given, *words], capture_output=True, text=True, check=False, cwd=root
    )
    return Done(done.stdout, done.stderr, done.returncode)


@dataclass(frozen=True)
class Machine:
    """The same store where Nix's is on a real machine: ``/nix``, for the commands that are run here and nobody else.

    `flake` is a checkout whose lock file has the stand-in for nixpkgs, so that commands need no option.
    Needs root, for a mount in a namespace of its own.
    """

    root: Path
    flake: Path
    home: Path

    def __call__(self, *command: str | Path, ok: bool = True, **variables: str) -> Done:
        done = subprocess.run(
            self._words(command), capture_output=True, text=True, check=False, cwd=self.flake, env=self._env(variables)
        )
        assert not ok or done.returncode == 0, done.stderr
        return Done(done.stdout, done.stderr, done.returncode)

    @contextmanager
    def started(self, *command: str | Path, **variables: str) -> Iterator[str]:
        """A command that goes on: its first line. It is told to stop at the end, and waited for."""
        with (
            tempfile.NamedTemporaryFile("w+") as said,
            subprocess.Popen(
                self._words(command), cwd=self.flake, env=self._env(variables), stdout=subprocess.PIPE, stderr=said
            ) as process,
        ):
            assert process.stdout is not None
            try:
                line = process.stdout.readline().decode()
                assert line, Path(said.name).read_text()
                yield line
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()

    def _words(self, command: tuple[str | Path, ...]) -> list[str]:
        mounted = 'mkdir -p /nix && mount --bind "$0" /nix && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mounted, str(self.root / "nix"), *map(str, command)]

    def _env(self, variables: Mapping[str, str]) -> dict[str, str]:
        config = "".join(f"{name} = {value}\n" for name, value in _OPTIONS.items())
        own = {"HOME": str(self.home), "HERMETIC_STORE": str(self.home / "store"), "NIX_CONFIG": config}
        return {name: text for name, text in os.environ.items() if not name.startswith("XDG_")} | own | variables


def locked(flake: Path, target: Path, root: Path, standin: str) -> None:
    """Copy the checkout `flake` with a lock file that has the stand-in for nixpkgs."""
    shutil.copytree(flake, target, symlinks=True)
    digest = run_nix(root, "hash", "path", f"{root}{standin}").stdout.strip()
    lock = json.loads((target / "flake.lock").read_text())
    lock["nodes"]["nixpkgs"]["locked"] = {"type": "path", "path": standin, "narHash": digest, "lastModified": 1}
    (target / "flake.lock").write_text(json.dumps(lock))
