"""From a dead stage's folder to a derivation's output: looked at and made canonical as what enters a store is."""

from __future__ import annotations

import os
from typing import Final

from hermetic.digest import TreeDigest
from hermetic.store.copying import clone
from hermetic.store.faults import refuse
from hermetic.store.hashing import Needles, hash_and_scan
from hermetic.store.ingest import check_targets, open_top
from hermetic.store.manifest import digest_folders
from hermetic.store.walk import OPEN_FILE, OPEN_FOLDER, Descent, FileNode, FolderNode, Limits, survey

__all__ = ["copy"]

_FORBIDDEN: Final = Needles([b"/nix/store/"])


def copy(source: str, target: str) -> TreeDigest:
    """Copy the folder `source` to `target`, which does not exist; its tree digest, as the other driver computes it.

    Raises `HermeticError` (build/output-…) for whatever may not enter a store, a path of Nix's store included.
    """
    top = open_top(source)
    try:
        found = survey(top, Limits())
        check_targets(found, _FORBIDDEN)
        os.mkdir(target, 0o755)
        into = os.open(target, OPEN_FOLDER)
        try:
            with Descent(top) as reading, Descent(into) as writing:
                for folder in found.folders:
                    _copy_folder(folder, reading.at(folder.parts), writing.at(folder.parts))
        finally:
            os.close(into)
        return digest_folders(found)
    finally:
        os.close(top)


def _copy_folder(folder: FolderNode, source: int, target: int) -> None:
    for below in folder.folders:
        os.mkdir(below.parts[-1], 0o755, dir_fd=target)
    for link in folder.links:
        os.symlink(link.target, link.name, dir_fd=target)
    for file in folder.files:
        _copy_file(folder, file, source, target)


def _copy_file(folder: FolderNode, file: FileNode, source: int, target: int) -> None:
    opened = os.open(file.name, OPEN_FILE, dir_fd=source)
    try:
        hashed = hash_and_scan(opened, file.size, _FORBIDDEN)
        if hashed.hit is not None:
            problem = f"it holds, {hashed.hit.offset:,} bytes in, a path of Nix's store"
            raise refuse("output-store-path", folder.inside(file.name), problem, "let the stage write relative paths")
        file.digest = hashed.digest
        clone(opened, file.name, target, executable=file.executable)
    finally:
        os.close(opened)
