"""Unpacks an image inside Nix's sandbox: ``python -m hermetic.nix.unpacking``. Standard library only.

Reads the archive that ``dockerTools.pullImage`` gives (``manifest.json``, a configuration, layers in order) and leaves
``rootfs`` and ``variables.json``. Nix's store keeps of a mode only whether a file is executable, no owner, no device.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import sys
import tarfile
from typing import IO, Final

__all__ = ["main", "unpack"]

_WHITEOUT: Final = ".wh."
_MOST_LINKS: Final = 40  # as the kernel
_OPAQUE: Final = ".wh..wh..opq"
#: What is mounted over in a stage; where the image has none of them they are made, empty.
_FOLDERS: Final = ("build", "dev", "etc", "nix/store", "proc", "run/opengl-driver", "sys", "tmp", "var", "var/tmp")
_FILES: Final = ("etc/passwd", "etc/group", "etc/hosts", "etc/nsswitch.conf")


def main() -> int:
    """The builder: ``$image`` is the archive, ``$out`` the result."""
    unpack(os.environ["image"], os.environ["out"])
    return 0


def unpack(archive: str, target: str) -> None:
    """Raises `ValueError` for an archive with names that are none."""
    root = os.path.join(target, "rootfs")
    os.makedirs(root)
    with tarfile.open(archive) as outer:
        (described,) = json.load(_member(outer, "manifest.json"))
        config = json.load(_member(outer, described["Config"]))
        for name in described["Layers"]:
            with tarfile.open(fileobj=_member(outer, name)) as layer:
                _apply(layer, root)
    for folder in _FOLDERS:
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    for file in _FILES:
        open(os.path.join(root, file), "ab").close()
    listed = (config.get("config") or {}).get("Env") or []
    with open(os.path.join(target, "variables.json"), "w", encoding="utf-8") as stream:
        json.dump(dict(item.partition("=")[::2] for item in listed), stream, sort_keys=True)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    if found is None:
        raise ValueError(f"the archive has no file {name}")
    return found


def _apply(layer: tarfile.TarFile, root: str) -> None:
    for entry in layer:
        name = posixpath.normpath(entry.name).lstrip("/")
        if name == "." or entry.ischr() or entry.isblk() or entry.isfifo():
            continue
        place = _inside(root, name)
        folder, last = os.path.split(place)
        if last == _OPAQUE:
            for old in os.listdir(folder):
                _remove(os.path.join(folder, old))
        elif last.startswith(_WHITEOUT):
            _remove(os.path.join(folder, last.removeprefix(_WHITEOUT)))
        else:
            _extract(layer, entry, place, root)


def _extract(layer: tarfile.TarFile, entry: tarfile.TarInfo, place: str, root: str) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if entry.isdir():
        if os.path.islink(place) or not os.path.isdir(place):
            _remove(place)
            os.mkdir(place)
        return
    _remove(place)
    if entry.issym():
        os.symlink(entry.linkname, place)
    elif entry.islnk():
        os.link(_inside(root, posixpath.normpath(entry.linkname).lstrip("/")), place, follow_symlinks=False)
    else:
        content = layer.extractfile(entry)
        assert content is not None
        with open(place, "wb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
        os.chmod(place, 0o755 if entry.mode & 0o100 else 0o644)


def _inside(root: str, name: str) -> str:
    """The path of `name` below `root`, following the symlinks on the way as whoever has `root` as ``/`` would."""
    *folders, last = name.split("/")
    found: list[str] = []
    waiting = folders[::-1]
    followed = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            found = found[:-1]
        elif part not in ("", "."):
            found.append(part)
            place = os.path.join(root, *found)
            if os.path.islink(place):
                followed += 1
                if followed > _MOST_LINKS:
                    raise ValueError(f"{name} lies behind a loop of symlinks")
                text = os.readlink(place)
                found = [] if text.startswith("/") else found[:-1]
                waiting += text.split("/")[::-1]
    if last in ("", ".", ".."):
        raise ValueError(f"{name} is no name of a file")
    return os.path.join(root, *found, last)


def _remove(place: str) -> None:
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    elif os.path.lexists(place):
        os.unlink(place)


if __name__ == "__main__":
    sys.exit(main())
