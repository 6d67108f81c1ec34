"""The flake of hermetic on the stand-in for nixpkgs, and beside it one of the same files that builds one file."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from bench.place import Place
from bench.timing import Command, once
from hermetic.testing.nixpkgs import prepare

__all__ = ["available", "check", "engine", "noop", "prepared", "recipe"]

_PARTS = ("flake.nix", "flake.lock", "nix", "hermetic", "recipes", "requirements")
_LOCK = "hermetic/llm/locks/openvino-build.txt"
_PLAIN = """{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  outputs = { self, nixpkgs }: {
    packages.%(system)s.tiny-engine = derivation {
      name = "plain";
      system = "%(system)s";
      builder = "${nixpkgs}/bin/sh";
      args = [ "-c" "echo done > $out" ];
    };
  };
}
"""
_OPTIONS = {
    "build-users-group": "",
    "experimental-features": "nix-command flakes",
    "sandbox": "true",
    "substituters": "",
    "warn-dirty": "false",
}


def available() -> bool:
    return all(shutil.which(name) for name in ("nix", "bwrap", "patchelf", "busybox"))


def prepared(place: Place) -> dict[str, Path]:
    """The checkouts by name, ready to be built: hermetic's flake and the plain one, each in git."""
    wheels = place.below("wheels")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    once(Command([*pip, "--dest", str(wheels), "-r", str(place.repository / _LOCK)]))
    standin = place.folder / "standin"
    model = place.repository / "recipes/tiny_qwen3/model"
    prepare(standin, place.repository / "nix/testing", files=[*wheels.glob("*.whl"), *model.iterdir()])
    added = once(_nix(place, "store", "add-path", "--name", "source", str(standin))).stdout.split()[-1]
    digest = once(_nix(place, "hash", "path", str(standin))).stdout.split()[-1]
    locked = {"type": "path", "path": added, "narHash": digest, "lastModified": 1}
    return {name: _checkout(place, name, locked) for name in ("hermetic", "plain")}


def noop(place: Place, flake: Path, kind: str) -> Command:
    """``nix build`` of the tiny engine, by `kind` of flake: "path" or "git"."""
    url = f"{'git+file' if kind == 'git' else 'path'}://{flake}#tiny-engine"
    return _nix(place, "build", url, "--no-link", "--no-write-lock-file")


def check(place: Place, flake: Path) -> Command:
    """Every output for both systems evaluated, nothing built and nothing remembered."""
    return _nix(place, "flake", "check", "--no-build", "--option", "eval-cache", "false", f"path://{flake}")


def engine(place: Place, flake: Path, number: int) -> Command:
    """``nix build`` of the stage in `RECIPE`, which was never built with that `number`."""
    folder = recipe(place)
    exported = folder / "engine.nix.json"
    if not exported.exists():
        once(place.hermetic("nix", "export", str(folder / "engine.py")))
        text = _CONSUMER % {"flake": flake, "system": f"{platform.machine()}-linux"}
        (folder / "flake.nix").write_text(text, "utf-8")
    graph = json.loads(exported.read_text("utf-8"))
    graph["stages"]["engine"]["parameters"]["number"] = number
    exported.write_text(json.dumps(graph), "utf-8")
    return _nix(place, "build", f"path://{folder}#engine", "--no-link")


def recipe(place: Place) -> Path:
    """The folder of a recipe whose only stage writes 2 GiB."""
    folder = place.below("engine")
    (folder / "lock.txt").write_text("", "utf-8")
    (folder / "engine.py").write_text(_RECIPE, "utf-8")
    (folder / "write.py").write_text(_PROGRAM, "utf-8")
    return folder


_RECIPE = """from hermetic import PythonEnv, Script, param

engine = Script("write.py", environment=PythonEnv("lock.txt"), parameters={"number": param("number", 0)})
"""
_PROGRAM = """import json, os

number = json.load(open("/build/stage.json"))["parameters"]["number"]
block = os.urandom(1 << 24)
with open("/build/out/rank0.engine", "wb") as stream:
    for at in range(128):
        stream.write(block)
"""
_CONSUMER = """{
  inputs.hermetic.url = "path:%(flake)s";
  outputs = { self, hermetic }: {
    packages.%(system)s = hermetic.lib.%(system)s.fromRecipe { export = ./engine.nix.json; root = ./.; };
  };
}
"""


def _checkout(place: Place, name: str, locked: dict[str, object]) -> Path:
    folder = place.below(name)
    for part in _PARTS:
        source = place.repository / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / part)
    lock = json.loads((folder / "flake.lock").read_text("utf-8"))
    lock["nodes"]["nixpkgs"]["locked"] = locked
    (folder / "flake.lock").write_text(json.dumps(lock), "utf-8")
    if name == "plain":
        (folder / "flake.nix").write_text(_PLAIN % {"system": f"{platform.machine()}-linux"}, "utf-8")
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "flake"]):
        subprocess.run(["git", *words], cwd=folder, env=place.env() | {"PATH": "/usr/bin:/bin"}, check=True)
    return folder


def _nix(place: Place, *words: str) -> Command:
    given = [word for name, value in _OPTIONS.items() for word in ("--option", name, value)]
    return Command(["nix", "--store", str(place.folder / "nix-store"), *given, *words], env=place.env())
