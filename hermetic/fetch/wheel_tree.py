"""Takes out of a folder of installed wheels whatever says where, when and by whom it was installed."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from typing import Final

__all__ = ["clean"]

_INSTALLER_FILES: Final = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
_SHEBANG: Final = re.compile(rb"#!\S*python[0-9.]*\n")
_LONG_SHEBANG: Final = re.compile(rb"#!/bin/sh\n'''exec' .*?\n' '''\n", re.DOTALL)

Record = dict[str, tuple[str, str]]  # path below the folder -> hash and size, as RECORD writes them


def clean(target: str, cache: str, shebang: str) -> None:
    """Make `target`, just filled by uv from the archives in `cache`, depend on its wheels alone.

    Installer's notes go, scripts start with `shebang`, ``RECORD`` lists what is there in order, and of a file that
    several wheels bring, the last one in order of distribution names is kept, whichever was unpacked last.
    """
    _remove_if_there(f"{target}/.lock")
    distributions = sorted(name for name in os.listdir(target) if name.endswith(".dist-info"))
    for name in distributions:
        for each in _INSTALLER_FILES:
            _remove_if_there(f"{target}/{name}/{each}")
    _rewrite_scripts(f"{target}/bin", shebang.encode())
    records = {name: _read_record(target, name) for name in distributions}
    changed = _settle_conflicts(target, cache, records)
    for name, record in records.items():
        _write_record(target, name, record, changed)


def _remove_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _rewrite_scripts(folder: str, shebang: bytes) -> None:
    if not os.path.isdir(folder):
        return
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "rb") as stream:
            head = stream.read(2)
            data = head + stream.read() if head == b"#!" else b""
        match = _SHEBANG.match(data) or _LONG_SHEBANG.match(data)
        if match is not None:
            with open(path, "wb") as stream:
                stream.write(b"#!" + shebang + b"\n" + data[match.end() :])


def _read_record(target: str, distribution: str) -> Record:
    """What the wheel brought; lines of removed and generated files are dropped."""
    try:
        with open(f"{target}/{distribution}/RECORD", encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except FileNotFoundError:
        return {}
    found = {}
    for path, digest, size in (row for row in rows if len(row) == 3):
        inside = os.path.normpath(re.sub(r"^(\.\./)+", "", path))
        if not path.startswith("/") and os.path.isfile(f"{target}/{inside}"):
            found[inside] = (digest, size)
    return found


def _settle_conflicts(target: str, cache: str, records: dict[str, Record]) -> set[str]:
    """Returns the paths that were in conflict."""
    settled = set()
    for path, owners in _conflicts(records):
        source = _archived(cache, owners[-1], path)
        if source is not None:
            _remove_if_there(f"{target}/{path}")
            shutil.copyfile(source, f"{target}/{path}")
            shutil.copymode(source, f"{target}/{path}")
        settled.add(path)
    return settled


def _conflicts(records: dict[str, Record]) -> Iterator[tuple[str, list[str]]]:
    """Files that several distributions bring with different bytes, with their owners in order."""
    owners: dict[str, list[str]] = {}
    for name, record in records.items():
        for path in record:
            owners.setdefault(path, []).append(name)
    for path, names in owners.items():
        hashes = {records[name][path][0] for name in names}
        if len(names) > 1 and (len(hashes) > 1 or "" in hashes):
            yield path, names


def _archived(cache: str, distribution: str, path: str) -> str | None:
    """The file as uv unpacked it from `distribution`'s own wheel."""
    for folder, folders, _ in os.walk(cache):
        if distribution in folders and os.path.isfile(f"{folder}/{path}"):
            return f"{folder}/{path}"
    return None


def _write_record(target: str, distribution: str, record: Record, changed: set[str]) -> None:
    own = f"{distribution}/RECORD"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for path in sorted(record):
        again = path in changed or path.startswith("bin/")
        noted = _measure(f"{target}/{path}") if again else record[path]
        writer.writerow((path, "", "") if path == own else (path, *noted))
    with open(f"{target}/{own}", "w", encoding="utf-8", newline="") as stream:
        stream.write(text.getvalue())


def _measure(path: str) -> tuple[str, str]:
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return f"sha256={encoded}", str(os.path.getsize(path))
