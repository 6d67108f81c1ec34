"""An independent judge of a store on disk. It shares no code with hermetic: BLAKE3, struct and what the design says.

``python store_checker.py ROOT [--tidy]`` prints one violation a line and exits 1 if there is any. Without ``--tidy`` it
checks what must hold at every moment (P2, P3); with it also that nothing is left over, which must hold after a
collection while nobody works.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

EPOCH = 315_532_800


def tree_digest(folder: Path) -> str:
    """The Merkle digest of a folder, straight from its definition (part 4 of the design)."""
    rows = []
    for name in sorted(os.listdir(os.fsencode(folder))):
        path = folder / os.fsdecode(name)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            kind, payload, size = b"l-", os.fsencode(os.readlink(path)), 0
        elif stat.S_ISDIR(status.st_mode):
            kind, payload, size = b"d-", bytes.fromhex(tree_digest(path)), 0
        else:
            data = path.read_bytes()
            kind = b"fx" if status.st_mode & 0o100 else b"f-"
            payload, size = blake3(data).digest(), len(data)
        rows.append(kind + struct.pack("<QQQ", len(name), size, len(payload)) + name + payload)
    return str(blake3(b"".join(rows), derive_key_context="hermetic tree v1").hexdigest())


def base32(key: str) -> str:
    return base64.b32encode(bytes.fromhex(key)[:20]).decode().lower()


def records(root: Path) -> dict[str, dict[str, object]]:
    return {path.name: json.loads(path.read_bytes()) for path in root.glob("realisations/*/*")}


def whole(root: Path) -> Iterator[str]:
    """P2: a path with a record is complete, as recorded, closed, and has its manifest and its preimage."""
    for key, record in records(root).items():
        output = root / "store" / f"{base32(key)}-{record['name']}"
        if record["key"] != key:
            yield f"record {key} speaks of {record['key']}"
        if not output.is_dir():
            yield f"{output} is missing, but has a record"
            continue
        if tree_digest(output) != record["tree"]:
            yield f"{output} is not what its record says"
        for path in (output, *output.rglob("*")):
            yield from closed(path)
        tree = str(record["tree"])
        if not (root / "trees" / tree[:2] / tree).is_file():
            yield f"{output} has no manifest"
        preimage = root / "derivations" / key[:2] / key
        if not preimage.is_file() or not json.loads(preimage.read_bytes()) is not None:
            yield f"{output} has no preimage"
        for reference in record["references"]:  # type: ignore[attr-defined]
            if not (root / "realisations" / reference[:2] / reference).is_file():
                yield f"{output} refers to {reference}, which is not realised"


def closed(path: Path) -> Iterator[str]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return
    allowed = (0o555,) if path.is_dir() else (0o444, 0o555)
    if stat.S_IMODE(status.st_mode) not in allowed:
        yield f"{path} has mode {stat.S_IMODE(status.st_mode):04o}"
    if int(status.st_mtime) != EPOCH:
        yield f"{path} has another time"


def rooted(root: Path) -> Iterator[str]:
    """P3: what a recorded root shows is realised."""
    realised = {base32(key) for key in records(root)}
    for path in root.glob("roots/*"):
        link = json.loads(path.read_bytes())["link"]
        target = os.path.realpath(link) if os.path.islink(link) else ""
        inside = os.path.relpath(target, os.path.realpath(root / "store")) if target else ".."
        if not inside.startswith("..") and inside[:32] not in realised:
            yield f"{link} shows {target}, which is not realised"


def shown(root: Path) -> Iterator[str]:
    """P3: what a generation of a profile shows is realised."""
    realised = {base32(key) for key in records(root)}
    for path in root.glob("profiles/*/*"):
        document = json.loads(path.read_bytes())
        if "key" in document and base32(document["key"]) not in realised:
            yield f"generation {path} keeps {document['key']}, which is not realised"


def tidy(root: Path) -> Iterator[str]:
    """Nothing is left of what was collected, killed or forgotten."""
    known = records(root)
    realised = {base32(key) for key in known}
    trees = {record["tree"] for record in known.values()}
    for folder in ("tmp", "trash", "leases"):
        yield from (f"{folder}/{name} is left over" for name in os.listdir(root / folder))
    yield from (f"store/{name} has no record" for name in os.listdir(root / "store") if name[:32] not in realised)
    yield from (f"tree {path.name} is nobody's" for path in root.glob("trees/*/*") if path.name not in trees)
    for path in root.glob("resolved/*/*/*"):
        if known.get(path.name, {}).get("resolved") != path.parent.name:
            yield f"{path} is nobody's"
    for path in root.glob("blobs/*/*"):
        if path.stat().st_nlink == 1:
            yield f"blob {path.name} is nobody's"
        if str(blake3(path.read_bytes()).hexdigest()) != path.name.removesuffix(".x"):
            yield f"blob {path.name} holds something else"


def violations(root: Path, *, is_tidy: bool = False) -> list[str]:
    return [*whole(root), *rooted(root), *shown(root), *(tidy(root) if is_tidy else ())]


if __name__ == "__main__":
    found = violations(Path(sys.argv[1]), is_tidy="--tidy" in sys.argv)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(1 if found else 0)
