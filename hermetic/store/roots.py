"""Roots: symlinks outside the store that keep what they point to alive, such as ``result``."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hermetic.digest import Key, hash_bytes
from hermetic.errors import Domain, HermeticError
from hermetic.store.faults import storing
from hermetic.store.layout import FORMAT, Layout, write_atomic
from hermetic.store.locks import KeyLock, collector_locked_out
from hermetic.store.syncpoint import reach

__all__ = [
    "Root", "add", "into_a_store", "kept", "placed", "points_to", "read_all", "remove", "switch", "unreadable",
]  # fmt: skip

_OUTPUT = re.compile(r"[a-z2-7]{32}-.+")


@dataclass(frozen=True, slots=True)
class Root:
    """A link that was made for `key`. `current` says whether it still points to that key's path in this store."""

    link: Path
    key: Key
    current: bool


def add(layout: Layout, link: str, key: Key, output: str) -> None:
    """Let `link` be a symlink to `output`, put there in one step, and record it.

    Raises `HermeticError`: usage/unknown-path when `output` was collected meanwhile, usage/out-link-exists when
    something else than a link into a store is there, usage/out-link-refused when nothing can be made there.
    """
    link = placed(link)
    identity = hash_bytes(os.fsencode(link)).hex
    with KeyLock(layout.root, f"root-{identity}"), collector_locked_out(layout.root):
        if not os.path.lexists(layout.record(key)):
            raise HermeticError(Domain.USAGE, "unknown-path", f"{output} was collected meanwhile; realise it again")
        _check_replaceable(link)
        record = json.dumps({"version": 1, "link": link, "key": key.hex}, sort_keys=True).encode("ascii")
        with storing(layout.root):
            # Recorded first: a link without a root could lose what it points to, a root without its link is nothing.
            # Durable: a power loss could leave an empty record, which would stop every collection from then on.
            write_atomic(layout, f"{layout.root}/roots/{identity}", record, durable=True)
        reach("root.after-record")
        try:
            switch(link, output)
        except OSError as error:
            raise HermeticError(
                Domain.USAGE,
                "out-link-refused",
                f"cannot make the link {link}: {error.strerror}",
                hint="choose another place with --out-link, or none with --no-link",
            ) from error
        reach("root.after-link")


def switch(link: str, output: str) -> None:
    """Let `link` be a symlink to `output` from one moment to the next. Call it with a lock for the link held."""
    identity = hash_bytes(os.fsencode(link)).hex
    temporary = os.path.join(os.path.dirname(link), f".hermetic-{identity[:16]}")  # one name: a kill leaves one
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(output, temporary)
    reach("root.after-temporary")
    os.replace(temporary, link)


def _check_replaceable(link: str) -> None:
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return
    except OSError:
        target = ""
    if not into_a_store(os.path.join(os.path.dirname(link), target)):
        raise HermeticError(
            Domain.USAGE,
            "out-link-exists",
            f"{link} exists and is not a link into a store",
            hint="move it away, or choose another name with --out-link",
        )


def into_a_store(target: str) -> bool:
    """Whether `target` is a store path. One whose whole store is gone is believed by its shape."""
    folder, name = os.path.split(target)
    root, store = os.path.split(folder)
    if store != "store" or _OUTPUT.fullmatch(name) is None:
        return False
    try:
        with open(f"{root}/format", "rb") as file:
            return file.read(64).startswith(FORMAT.split(b" store")[0])
    except FileNotFoundError:
        return not os.path.lexists(root)
    except OSError:
        return False


def read_all(layout: Layout) -> list[Root]:
    """Every recorded root that can be read, by link."""
    found = []
    for name in os.listdir(layout.folder("roots")):
        try:
            link, key = _read(layout, name)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
        found.append(Root(Path(link), key, points_to(link, f"{layout.root}/store", key)))
    return sorted(found, key=lambda root: root.link)


def _read(layout: Layout, name: str) -> tuple[str, Key]:
    with open(f"{layout.root}/roots/{name}", "rb") as file:
        document = json.loads(file.read())
    return str(document["link"]), Key(document["key"])


def points_to(link: str, store: str, key: Key) -> bool:
    """Whether `link` is a symlink to the output of `key` below the folder `store`."""
    try:
        folder, name = os.path.split(os.path.join(os.path.dirname(link), os.readlink(link)))
    except OSError:
        return False
    return name.startswith(f"{key.base32}-") and os.path.realpath(folder) == os.path.realpath(store)


def kept(layout: Layout) -> Iterator[tuple[str, str]]:
    """What every root keeps alive, as the key's part of the store path's name, and the link that does.

    Whatever the link points to now is kept, wherever in the store that is. A link that is there but cannot be read
    keeps what it was made for. Raises `HermeticError` (store/unreadable-root) for a record that cannot be read: the
    collector cannot know what it stands for.
    """
    for name in sorted(os.listdir(layout.folder("roots"))):
        try:
            link, key = _read(layout, name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(f"{layout.root}/roots/{name}") from error
        if (kept_name := _keeps(layout, link, key)) is not None:
            yield kept_name, link


def unreadable(path: str) -> HermeticError:
    """The error for a record of a root that cannot be read."""
    return HermeticError(
        Domain.STORE,
        "unreadable-root",
        f"the root {path} cannot be read, so nobody knows what it keeps alive; nothing was collected",
        hint=f"`hermetic root remove {path}` gives it up",
        data={"path": path},
    )


def _keeps(layout: Layout, link: str, key: Key) -> str | None:
    try:
        target = os.readlink(link)
    except OSError as error:
        # Gone, or something else than a link lies there now. Anything else may be a disk that comes back.
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)
        return None if gone else key.base32
    if os.path.basename(target).startswith(f"{key.base32}-"):
        return key.base32  # also when the store was moved since, and the link leads nowhere
    inside = os.path.relpath(os.path.realpath(link), os.path.realpath(layout.folder("store")))
    name = inside.split("/")[0]
    return name[:32] if _OUTPUT.fullmatch(name) else None


def remove(layout: Layout, link: str) -> bool:
    """Take back the root at `link`, and the link itself if it is one into a store; say whether there was a root.

    `link` may also be the path of a record below ``roots/``, which is all that is left of one that cannot be read.
    """
    link = placed(link)
    if os.path.dirname(link) == os.path.realpath(layout.folder("roots")):
        record = link
    else:
        record = f"{layout.root}/roots/{hash_bytes(os.fsencode(link)).hex}"
        with suppress(OSError):
            if into_a_store(os.path.join(os.path.dirname(link), os.readlink(link))):
                os.unlink(link)
        reach("root.after-unlink")
    try:
        with storing(layout.root):
            os.unlink(record)
    except FileNotFoundError:
        return False
    return True


def placed(link: str) -> str:
    """One spelling for every place, whatever symlinks lead to its folder."""
    return os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(link))), os.path.basename(link))
