"""A stage's folders as the judge sees them: which files there are, and what their own bytes say.

The stage may still run and is not trusted: nothing is opened through a symlink, and only regular files are read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Final

from hermetic.harvest.evidence import Content, File
from hermetic.recipe.harvest import Harvest

__all__ = ["Found", "content", "find", "opened"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to hang in a pipe's open
_LARGEST_JSON: Final = 1 << 28
_END: Final = 4
_PLAN: Final = b"ftrt"  # the first bytes of a serialised TensorRT engine

Found = tuple[str, tuple[File, ...], tuple[str, ...], str]  #: folder, files, globs without a match, problem


def find(root: str, harvest: Harvest) -> Found:
    """The artefacts in the first of the harvest's folders below `root` that has any."""
    for folder in harvest.folders:
        having = []
        for place in sorted(_matches(root, "", folder.split("/"), folders=True)):
            files, missing = _artifacts(os.path.join(root, place[0]), harvest)
            if files:
                having.append((place[0], files, missing))
        if len(having) > 1:
            places = " and ".join(place for place, _, _ in having)
            return "", (), (), f"{places} both have artefacts, and {folder!r} means one folder"
        if having:
            return *having[0], ""
    return "", (), harvest.artifacts, ""


def content(root: str, folder: str, file: File) -> Content:
    """What the file's own bytes say of it. A file that cannot be read is one that is not whole."""
    try:
        with opened(os.path.join(root, folder), file.name) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (file.device, file.inode):
                return Content("is not the file that it was")
            return _judged(file, descriptor)
    except OSError as error:
        return Content(f"cannot be read: {error.strerror}")


@contextmanager
def opened(folder: str, name: str) -> Iterator[int]:
    """A descriptor of the file `name` below `folder`, reached without following a symlink."""
    *parents, last = name.split("/")
    here = os.open(folder, _FOLDER)
    try:
        for parent in parents:
            below = os.open(parent, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        file = os.open(last, _FILE, dir_fd=here)
    finally:
        os.close(here)
    try:
        yield file
    finally:
        os.close(file)


def _artifacts(folder: str, harvest: Harvest) -> tuple[tuple[File, ...], tuple[str, ...]]:
    found: dict[str, File] = {}
    missing = []
    for glob in harvest.artifacts:
        matching = [
            File(name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            for name, status in _matches(folder, "", glob.split("/"), folders=False)
        ]
        found |= {file.name: file for file in matching}
        if not matching:
            missing.append(glob)
    return tuple(found[name] for name in sorted(found)), tuple(missing)


def _matches(
    folder: str | int, above: str, parts: Sequence[str], *, folders: bool
) -> Iterator[tuple[str, os.stat_result]]:
    """Names below `folder` that match the glob `parts`: folders or regular files, never symlinks."""
    try:
        here = os.open(folder, _FOLDER) if isinstance(folder, str) else folder
    except OSError:
        return  # not there yet, or not there any more
    try:
        with os.scandir(here) as entries:
            names = sorted(entry.name for entry in entries if _is_match(entry.name, parts[0]))
        for name in names:
            yield from _below(here, name, above, parts, folders=folders)
    finally:
        os.close(here)


def _below(
    here: int, name: str, above: str, parts: Sequence[str], *, folders: bool
) -> Iterator[tuple[str, os.stat_result]]:
    try:
        if len(parts) > 1:
            yield from _matches(os.open(name, _FOLDER, dir_fd=here), f"{above}{name}/", parts[1:], folders=folders)
            return
        status = os.stat(name, dir_fd=here, follow_symlinks=False)
    except OSError:
        return  # gone, or no folder
    if (stat.S_ISDIR if folders else stat.S_ISREG)(status.st_mode):
        yield above + name, status


def _is_match(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def _judged(file: File, descriptor: int) -> Content:
    if file.size == 0:
        return Content("is empty")
    hole, blank = _hole(file.size, descriptor), _is_blank(file.size, descriptor)
    if file.name.endswith((".engine", ".plan")):
        head = os.pread(descriptor, len(_PLAN), 0)
        problem = "" if head == _PLAN else f"does not start with {_PLAN.decode()}, as a TensorRT plan does"
        return Content(problem, hole=hole, blank=blank)
    if file.name.endswith(".json"):
        return _json(file, descriptor)
    if file.name.endswith(".safetensors"):
        return _safetensors(file, descriptor)
    return Content(hole=hole, blank=blank)


def _is_blank(size: int, descriptor: int) -> bool:
    """Whether nothing but zeros stands at the very end.

    Four bytes: fewer are zero in good files now and then, and a shorter piece is hardly written by itself.
    """
    end = os.pread(descriptor, _END, max(size - _END, 0))
    return not any(end)


def _hole(size: int, descriptor: int) -> int | None:
    """Where nothing was written though the size is there: a writer allocated it first, and has not come so far.

    Exact to a page. File systems that cannot tell say that there is none.
    """
    try:
        found = os.lseek(descriptor, 0, os.SEEK_HOLE)
    except OSError:
        return None
    return found if found < size else None


def _json(file: File, descriptor: int) -> Content:
    if file.size > _LARGEST_JSON:
        return Content("is too large to be read as JSON")
    try:
        document = json.loads(_read(descriptor, 0, file.size))
    except ValueError as error:
        return Content(f"is no whole JSON: {error}")
    if not isinstance(document, dict):
        return Content(proven=isinstance(document, list))
    return Content(proven=True, document=document if file.name == "config.json" else None)


def _safetensors(file: File, descriptor: int) -> Content:
    """The header says where the last tensor ends, so this format proves its own tail."""
    try:
        length = int.from_bytes(_read(descriptor, 0, 8), "little")
        header = json.loads(_read(descriptor, 8, min(length, file.size)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return Content("has no whole safetensors header")
    return Content("" if wanted == file.size else f"has {file.size} bytes of {wanted}", proven=wanted == file.size)


def _read(descriptor: int, start: int, count: int) -> bytes:
    found = bytearray()
    while len(found) < count and (chunk := os.pread(descriptor, count - len(found), start + len(found))):
        found += chunk
    return bytes(found)
