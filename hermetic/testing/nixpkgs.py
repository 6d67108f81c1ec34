"""A STAND-IN for nixpkgs: a flake of this machine's Python, bubblewrap and uv, and of files that were brought before.

nixpkgs cannot be had without the internet. ``nix/testing/flake.nix`` has the attributes of it that ``flake.nix`` uses,
and `prepare` lays what they are made of beside it. Nothing of nixpkgs is in it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from hermetic.fetch.wheels import find_uv
from hermetic.sandbox import interpreter, libraries, python
from hermetic.testing.trtllm.image import StandinImage

__all__ = ["prepare"]

#: What the builders import (nix/stages.nix), with what that stands on.
_SITE: Final = (
    "annotated-types",
    "blake3",
    "pydantic",
    "pydantic-core",
    "rfc8785",
    "typing-extensions",
    "typing-inspection",
)
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_APPLETS: Final = """
basename cat chmod cp cut dirname echo env grep head id ls mkdir mv
printf pwd readlink rm sed sh sleep sort tail tar test touch tr true uname wget xargs
""".split()  # noqa: SIM905  # a line each would be a page


def prepare(
    target: Path,
    expressions: Path,
    *,
    files: Iterable[Path] = (),
    images: Iterable[StandinImage] = (),
    variables: Mapping[str, str] = _NOTHING,
) -> None:
    """Fill the new folder `target` with the flake; `expressions` is the folder ``nix/testing``.

    `files` are what its fetchers find, by sha256; `images` what ``pullImage`` does, by their manifests' digests, with
    `variables` added to their own (a stand-in for TensorRT-LLM behaves as they say).
    Needs busybox, bwrap, patchelf and uv on this machine.
    """
    target.mkdir(parents=True)
    for path in expressions.glob("*.nix"):
        shutil.copyfile(path, target / path.name)
    found = interpreter.describe("")
    (target / "version").write_text(found.minor)
    _shell(target / "bin")
    own, system = python.assemblies(found)
    for name, tree in (("python", own), ("system", system)):
        (target / name).mkdir()
        tree.build(str(target / name))
    _programs(target)
    _manylinux(target)
    _site(target / "site")
    (target / "files").mkdir()
    for file in files:
        _link(file, target / "files" / _sha256(file))
    (target / "images").mkdir()
    for image in images:
        _archive(image, target / "images" / f"{image.digest.removeprefix('sha256:')}.tar", variables)


def _shell(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", folder / "busybox")
    for name in _APPLETS:
        (folder / name).symlink_to("busybox")


def _programs(target: Path) -> None:
    (target / "programs").mkdir()
    found = {name: shutil.which(name) or f"/usr/bin/{name}" for name in ("bwrap", "patchelf")}
    for name, path in {**found, "uv": find_uv()}.items():
        shutil.copy(path, target / "programs" / name)
        os.chmod(target / "programs" / name, 0o755)  # noqa: S103
        for library, place in libraries.needed(path).items():
            if not (target / "system" / library).exists():
                shutil.copyfile(place, target / "system" / library)


def _manylinux(target: Path) -> None:
    """Where a wheel's libraries are looked for: all that the machine's Python stands on."""
    (target / "manylinux").mkdir()
    (target / "manylinux/lib").symlink_to("../system")


def _site(folder: Path) -> None:
    for distribution in _SITE:
        for name in importlib.metadata.files(distribution) or ():
            if name.suffix != ".pyc" and ".." not in name.parts:
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name.locate(), place)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _archive(image: StandinImage, target: Path, variables: Mapping[str, str]) -> None:
    """The layout's image as ``docker save`` would write it, which is what ``pullImage`` gives."""
    blobs = image.folder / "blobs/sha256"
    manifest: dict[str, Any] = json.loads((blobs / image.digest.removeprefix("sha256:")).read_bytes())
    digests = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
    config = manifest["config"]["digest"].removeprefix("sha256:")
    settings: dict[str, Any] = json.loads((blobs / config).read_bytes())
    settings["config"]["Env"] += [f"{name}={text}" for name, text in variables.items()]
    described = [{"Config": f"{config}.json", "RepoTags": [], "Layers": [f"{digest}.tar" for digest in digests]}]
    with tarfile.open(target, "w") as archive:
        _add(archive, "manifest.json", json.dumps(described).encode())
        _add(archive, f"{config}.json", json.dumps(settings).encode())
        for digest in dict.fromkeys(digests):
            archive.add(blobs / digest, f"{digest}.tar")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
