"""Nix with its sandbox on, a store of its own, and the stand-in for nixpkgs; this checkout as a flake, outside git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nix_machine import Machine, Nix, locked, run_nix

from hermetic.testing.nixpkgs import prepare
from hermetic.testing.trtllm.image import build_image

REPOSITORY = Path(__file__).parents[2]
LOCKS = REPOSITORY / "hermetic/llm/locks"
IMAGE = "sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9"  # that recipes pin
_PARTS = ("flake.nix", "flake.lock", "nix", "hermetic", "recipes", "requirements")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of all locks that are built here, from the configured index."""
    folder = tmp_path_factory.mktemp("wheels")
    names = ("openvino-build", "openvino-run", "models-data", "files")
    locks = [*(LOCKS / f"{name}.txt" for name in names), REPOSITORY / "requirements/base.txt"]
    for lock in locks:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        pip += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder), "-r", str(lock)]
        subprocess.run(pip, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Nix]:
    """See `Nix`. Skips where there is none; `.ci/run` installs it."""
    if shutil.which("nix") is None:
        pytest.skip("needs nix (Debian: nix-bin)")
    root = tmp_path_factory.mktemp("nix")
    flake = root / "checkout"
    for part in _PARTS:
        _copy(REPOSITORY / part, flake / part)
    image = build_image(root / "image")
    templates = flake / "nix/templates.nix.json"  # whose image nobody has here
    templates.write_text(templates.read_text().replace(IMAGE, image.digest))
    model = REPOSITORY / "recipes/tiny_qwen3/model"
    files = [*wheels.glob("*.whl"), *model.iterdir()]
    hangs = {"STANDIN_BEHAVIOUR": "hang"}  # as the real tools do now and then
    prepare(root / "standin", REPOSITORY / "nix/testing", files=files, images=[image], variables=hangs)
    added = run_nix(root, "store", "add-path", "--name", "source", str(root / "standin"))
    assert added.exit_code == 0, added.stderr
    yield Nix(flake, root, added.stdout.strip(), image)
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
