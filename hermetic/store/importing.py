"""Adopting a folder that something else made: it is what its bytes are, and nobody knows where they came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hermetic import canonical
from hermetic.digest import Key, TreeDigest, derive, hash_descriptor
from hermetic.errors import Domain, HermeticError
from hermetic.store import manifest
from hermetic.store.copying import copy_tree
from hermetic.store.faults import storing
from hermetic.store.ingest import open_top
from hermetic.store.realisation import Realisation
from hermetic.store.run import Run
from hermetic.store.syncpoint import reach
from hermetic.store.walk import OPEN_FILE, Descent, Survey, survey

if TYPE_CHECKING:
    from hermetic.canonical import Value

__all__ = ["import_tree"]

_CONTEXT = "hermetic import v1"


def import_tree(run: Run, folder: Path, name: str) -> Realisation:
    """Copy `folder` into the store, sharing its blocks where the file system can, as an impure path called `name`.

    The key follows from the bytes and the name, so the same folder is imported once. `folder` is left as it is;
    nothing may be writing to it. Raises `HermeticError` with domain usage for what may not enter a store (reasons
    output-…) or is no folder, recipe/bad-name, environment/store-full, environment/store-read-only.
    """
    store = run.store
    store.layout.output(Key("0" * 64), name)
    try:
        with run.workspace() as place:
            digest = _copy(run, folder, place.path / "out")
            reach("import.after-copy")
            preimage: dict[str, Value] = {"stage": "import", "name": name, "tree": digest.hex}
            key = derive(Key, _CONTEXT, canonical.encode(preimage))
            run.lease([key])
            with store.lock(key):
                return run.ingest(
                    place.path / "out",
                    key=key,
                    name=name,
                    preimage=preimage,
                    resolved=None,
                    impure=True,
                    verbatim=True,  # it may speak of where it was made
                )
    except HermeticError as error:
        if error.domain is not Domain.BUILD:
            raise
        message = error.message.replace("the output's", f"{folder}:", 1)
        raise HermeticError(Domain.USAGE, error.reason, message, hint=error.hint, data=error.data) from error


def _copy(run: Run, folder: Path, target: Path) -> TreeDigest:
    """Copy it, and hash the copy: that is what nobody else can change any more."""
    source = open_top(os.fspath(folder))
    try:
        found = survey(source, run.store.limits)
        with storing(str(run.store.root)):
            target.mkdir(0o755)
            top = open_top(os.fspath(target))
            try:
                copy_tree(found, source, top, link=False)
                return _hash(found, top)
            finally:
                os.close(top)
    finally:
        os.close(source)


def _hash(found: Survey, top: int) -> TreeDigest:
    with Descent(top) as descent:
        for folder, file in found.files():
            opened = os.open(file.name, OPEN_FILE, dir_fd=descent.at(folder.parts))
            try:
                file.digest, file.size = hash_descriptor(opened)
            finally:
                os.close(opened)
    return manifest.digest_folders(found)
