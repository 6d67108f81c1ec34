"""Nix with its sandbox on, a store of its own, and the stand-in for nixpkgs; this checkout as a flake, outside git."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nix_machine import Machine, Nix, locked, run_nix

from hermetic.fetch.wheel_lock import parse_lock
from hermetic.nix.choice import listed
from hermetic.nix.export import PYTHON
from hermetic.recipe.lockfile import PLATFORM
from hermetic.testing.nixpkgs import prepare
from hermetic.testing.trtllm.image import StandinImage, build_image

REPOSITORY = Path(__file__).parents[2]
LOCKS = REPOSITORY / "hermetic/llm/locks"
EXPORTS = [REPOSITORY / f"{name}.nix.json" for name in ("nix/templates", "recipes/tiny_qwen3", "recipes/qwen3")]
SYSTEM = f"{platform.machine()}-linux"
IMAGE = "sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9"  # that recipes pin
_PARTS = ("flake.nix", "flake.lock", "nix", "hermetic", "recipes", "requirements")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of all locks that are built here, from the configured index.

    pip downloads by address: to look each package up takes it 15 s of computing, and uv, which is quick at that, keeps
    no archives.
    """
    folder = tmp_path_factory.mktemp("wheels")
    names = ("openvino-build", "openvino-run", "models-data", "files")
    wanted = {wheel["sha256"] for path in EXPORTS for wheel in _wheels(path)}
    found = {
        f"{wheel['url']}#sha256={wheel['hashes']['sha256']}"
        for lock in (*(LOCKS / f"{name}.txt" for name in names), REPOSITORY / "requirements/base.txt")
        for package in listed(parse_lock(lock.read_text("utf-8"), str(lock)), PYTHON, SYSTEM, {})
        for wheel in package["wheels"]
        if wheel["hashes"]["sha256"] in wanted
    }
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--dest", str(folder), *sorted(found)], check=True, capture_output=True)
    return folder


def _wheels(export: Path) -> Iterator[dict[str, str]]:
    for environment in json.loads(export.read_text("utf-8"))["environments"].values():
        yield from environment.get("wheels", {}).get(SYSTEM, ())


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Nix]:
    """See `Nix`. Skips where there is none; `.ci/run` installs it."""
    root = tmp_path_factory.mktemp("nix")
    flake = _checkout(root)
    image = build_image(root / "image")
    templates = flake / "nix/templates.nix.json"  # whose image nobody has here
    templates.write_text(templates.read_text().replace(IMAGE, image.digest))
    hangs = {"STANDIN_BEHAVIOUR": "hang"}  # as the real tools do now and then
    prepare(root / "standin", REPOSITORY / "nix/testing", images=[image], variables=hangs)
    # What fetchers bring lies there already under its hash, which saves Nix a build for each file.
    files = [*wheels.glob("*.whl"), *(REPOSITORY / "recipes/tiny_qwen3/model").iterdir()]
    add = ["nix-store", "--store", str(root), "--add-fixed", "sha256", *map(str, files)]
    subprocess.run(add, check=True, capture_output=True)
    archive = root / "standin/images" / f"{image.digest.removeprefix('sha256:')}.tar"
    known = {image.digest: {PLATFORM: hashlib.sha256(archive.read_bytes()).hexdigest()}}
    (flake / "nix/images.json").write_text(json.dumps(known))
    yield Nix(flake, root, _added(root), image)
    _make_writable(root)


@pytest.fixture(scope="session")
def evaluating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nix]:
    """The same for what builds nothing: the stand-in has no wheels and no image."""
    root = tmp_path_factory.mktemp("evaluating")
    flake = _checkout(root)
    prepare(root / "standin", REPOSITORY / "nix/testing")
    yield Nix(flake, root, _added(root), StandinImage(root, "", "", ""))
    _make_writable(root)


def _checkout(root: Path) -> Path:
    if shutil.which("nix") is None:
        pytest.skip("needs nix (Debian: nix-bin)")
    flake = root / "checkout"
    for part in _PARTS:
        _copy(REPOSITORY / part, flake / part)
    # Quantised with fewer samples the tiny engine answers as well, and is there in half the time.
    for name in ("tiny_qwen3.py", "tiny_qwen3.nix.json"):
        path = flake / "recipes" / name
        path.write_text(path.read_text().replace("samples=64", "samples=16").replace('"samples": 64', '"samples": 16'))
    return flake


def _added(root: Path) -> str:
    """The stand-in's path in Nix's store."""
    added = run_nix(root, "store", "add-path", "--name", "source", str(root / "standin"))
    assert added.exit_code == 0, added.stderr
    return added.stdout.strip()


def _make_writable(root: Path) -> None:
    for folder, _, _ in os.walk(root):  # what Nix keeps is read-only, and is to be removed
        os.chmod(folder, 0o755)


@pytest.fixture(scope="session")
def machine(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """See `Machine`."""
    if os.getuid() != 0:
        pytest.skip("needs mount(2), for a /nix of its own")
    home = tmp_path_factory.mktemp("home")
    flake = home / "checkout"
    locked(nix.flake, flake, nix.root, nix.standin)
    return Machine(nix.root, flake, home)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)
