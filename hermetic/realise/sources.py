"""Copies of sources in the store: what a stage reads cannot change while it reads."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import IO

from hermetic.derivation import SourceInput, source_key, source_preimage
from hermetic.errors import Domain, HermeticError
from hermetic.recipe import Memo, Source
from hermetic.recipe.source import SINGLE, hash_source
from hermetic.store import Realisation, Run, Store

__all__ = ["materialise_source"]

_FICLONE = 0x40049409  # ioctl that shares the blocks of two files, from linux/fs.h


def materialise_source(item: SourceInput, store: Store, run: Run) -> str:
    """The path in the store that holds exactly the bytes `item` was hashed as.

    Raises `HermeticError` (recipe/source-changed) if the source is no longer what it was when the key was computed.
    """
    key = source_key(item.tree)
    run.lease([key])
    lock = store.lock(key)
    with lock:
        found = store.realisation(key) or _copy_in(item, run)
    path = os.fspath(store.path(found.key, found.name))
    single = os.path.join(path, os.fsdecode(SINGLE))
    return path if os.path.isdir(item.source.path) else single


def _copy_in(item: SourceInput, run: Run) -> Realisation:
    place = run.workspace()
    try:
        copy = os.path.join(place.path, "source")
        if os.path.isdir(item.source.path):
            shutil.copytree(item.source.path, copy, symlinks=True, copy_function=_copy_file)
        else:
            os.mkdir(copy)
            _copy_file(item.source.path, os.path.join(copy, os.fsdecode(SINGLE)))
        if hash_source(Source(copy), Memo()) != item.tree:
            raise _changed(item)
        key = source_key(item.tree)
        return run.ingest(
            place.path / "source",
            key=key,
            name="source",
            preimage=source_preimage(item.tree),
            resolved=None,
            verbatim=True,
        )
    except (shutil.Error, FileNotFoundError) as error:
        raise _changed(item) from error
    finally:
        place.close()


def _changed(item: SourceInput) -> HermeticError:
    return HermeticError(
        Domain.RECIPE,
        "source-changed",
        f"the source {item.source.path} changed after its key was computed",
        hint="run the same command again",
    )


def _copy_file(source: str, target: str) -> str:
    """Share the blocks where the file system can, copy where it cannot."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        if not _shared(reader, writer):
            shutil.copyfileobj(reader, writer, 1 << 20)
        os.fchmod(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777 | 0o600)
    return target


def _shared(reader: IO[bytes], writer: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
    except OSError:
        return False
    return True
