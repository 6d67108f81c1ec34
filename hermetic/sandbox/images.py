"""`Image`: an OCI image's root file system, unpacked once under ``images/``, read-only below every stage that wants it.

umoci unpacks, in a sandbox of its own: it sees the layout and an empty folder and nothing else, so a layer with
``../`` in its names or with links to the outside reaches nothing. It never makes a device (``--rootless``), and what
it made is looked at afterwards. Every file belongs to whoever stages run as, so that a stage sees the same root
whether root or an ordinary user started it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.oci_layout import IMAGE
from hermetic.recipe.environments import Image
from hermetic.recipe.image_reference import parse_reference
from hermetic.recipe.lockfile import PLATFORM
from hermetic.sandbox import abi, image_wheels, runner, workspace
from hermetic.sandbox.plan import LaunchPlan, Mount
from hermetic.store import images as stored

if TYPE_CHECKING:
    from hermetic.canonical import Value
    from hermetic.fetch import oci
    from hermetic.store import Run

__all__ = ["Root", "command", "find", "folder_of", "materialise", "pinned", "planned", "value", "variables"]

_EPOCH: Final = 315532800
_DEFAULT_PYTHON: Final = "python3"
#: What is mounted over; folders first. Where the image has none of them they are made, empty.
_FOLDERS: Final = ("build", "dev", "etc", "proc", "sys", "tmp", "var", "var/tmp")
_FILES: Final = tuple(f"etc/{name}" for name in abi.ETC)

Progress = Callable[[str, int, "int | None"], None]


@dataclass(frozen=True)
class Root:
    """An unpacked image: where its root file system lies, and its ``Env``."""

    path: str
    variables: Mapping[str, str]


def value(image: Image) -> dict[str, Value]:
    """The environment's part of a stage's preimage. Known from the lock file alone."""
    if not image.digest:
        message = f"the image {image.reference!r} is not locked to a digest"
        raise HermeticError(Domain.RECIPE, "not-locked", message, hint="hermetic lock RECIPE")
    described: dict[str, Value] = {"kind": "image", "manifest": image.digest}
    if image.wheels is not None:
        described |= image_wheels.value(image.wheels)
    return described if image.python == _DEFAULT_PYTHON else {**described, "python": image.python}


def command(image: Image) -> tuple[str, ...]:
    """What starts a ``.py`` program. No ``-P``: images with Python 3.10 are in use, and older ones refuse it."""
    return (image.python, "-B")


def variables(listed: tuple[str, ...]) -> dict[str, str]:
    """An image's ``Env`` as a mapping; the last of several values counts, as in a container."""
    return {name: text for name, _, text in (item.partition("=") for item in listed)}


def pinned(image: Image) -> str:
    """The image as docker and podman pull it: by its digest, without a tag."""
    return f"{parse_reference(image.reference).pinned}@{image.digest}"


def folder_of(store: str, image: Image) -> str:
    """Where `image` lies in the store at `store`, once it does."""
    return stored.folder_of(store, image.digest)


def find(store: str, image: Image) -> Root | None:
    """The unpacked image, if it is there and whole."""
    found = stored.read(store, image.digest)
    return None if found is None else Root(found.root, found.variables)


def planned(store: str, image: Image) -> Root:
    """The root that `materialise` will give, whether or not it is there: its ``Env`` is in the lock file too."""
    return find(store, image) or Root(f"{folder_of(store, image)}/rootfs", variables(image.variables))


async def materialise(image: Image, run: Run, progress: Progress | None, runtime: str = "bwrap") -> Root:
    """Bring and unpack `image`, unless it is there; umoci runs under `runtime`.

    Raises `HermeticError`: hash/image-mismatch, environment/registry-…, environment/image-…, environment/no-umoci.
    """
    key = stored.key_of(image.digest)
    run.lease([key])
    store = str(run.store.root)
    found = find(store, image)
    if found is not None:
        return found
    lock = run.store.lock(key)
    while not lock.try_acquire():  # noqa: ASYNC110  # another process holds it
        await asyncio.sleep(0.05)
    try:
        return find(store, image) or await _make(image, run, progress or _tell_nobody, runtime)
    finally:
        lock.release()


def _tell_nobody(_what: str, _done: int, _total: int | None) -> None:
    return


async def _make(image: Image, run: Run, tell: Progress, runtime: str) -> Root:
    """Its layers are kept in ``….partial`` until it is unpacked, so that whatever interrupts this, the next goes on."""
    target = folder_of(str(run.store.root), image)
    work = f"{target}{stored.PARTIAL}"
    tool = _umoci()
    await asyncio.to_thread(_prepare_work, work, target)
    what = f"image {image.reference}"
    from hermetic.fetch import oci  # noqa: PLC0415  # the client imports for half as long as a plan takes

    pulled = await oci.pull(
        image.location, image.digest, image.config, f"{work}/in/layout", lambda done, total: tell(what, done, total)
    )
    if pulled.config.platform != PLATFORM:
        message = f"{image.reference} is for {pulled.config.platform}, and this machine is {PLATFORM}"
        raise HermeticError(Domain.ENVIRONMENT, "image-platform", message, hint="lock a tag that has this platform too")
    tell(f"unpacking {image.reference}", 0, None)
    await _unpack(image, tool, work, runtime)
    await asyncio.to_thread(_finish, image, pulled, work, target)
    found = find(str(run.store.root), image)
    assert found is not None
    return found


def _prepare_work(work: str, target: str) -> None:
    from hermetic.store import remove_tree  # noqa: PLC0415  # only this path needs it

    remove_tree(target)  # of a process that died between the rename and the marker
    for name in ("out", "tmp"):
        remove_tree(f"{work}/{name}")
    os.makedirs(f"{work}/in/layout", exist_ok=True)
    os.chmod(work, 0o700)
    workspace.prepare(work)
    with open(f"{work}/stage.json", "wb") as stream:
        stream.write(b"{}")


async def _unpack(image: Image, tool: str, work: str, runtime: str) -> None:
    _make_readable(f"{work}/in")
    plan = LaunchPlan(
        argv=(tool, "raw", "unpack", "--rootless", "--image", f"{abi.IN}/layout:{IMAGE}", f"{abi.OUT}/rootfs"),
        workspace=work,
        mounts=tuple(_tool_mounts(tool)),
        symlinks=_tool_links(),
    )
    said: list[bytes] = []
    log = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        ended = await runner.run(plan, log=log, on_output=said.append, runtime=runtime)
    finally:
        os.close(log)
    if not ended.ok:
        raise _explain(image, b"".join(said).decode(errors="replace"))


def _umoci() -> str:
    found = shutil.which("umoci")
    if found is None:
        message = "umoci, which unpacks images, is not installed"
        raise HermeticError(Domain.ENVIRONMENT, "no-umoci", message, hint="apt-get install umoci")
    return os.path.realpath(found)


def _tool_mounts(tool: str) -> Iterator[Mount]:
    """Bubblewrap shows umoci itself and the C library that it may be linked to."""
    yield Mount("/usr", "/usr")
    for name in ("lib", "lib64"):
        if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}"):
            yield Mount(f"/{name}", f"/{name}")
    if not tool.startswith("/usr/"):
        yield Mount(tool, tool)


def _tool_links() -> dict[str, str]:
    return {f"/{name}": f"usr/{name}" for name in ("lib", "lib64") if os.path.islink(f"/{name}")}


def _explain(image: Image, said: str) -> HermeticError:
    text = re.sub(r"\x1b\[[0-9;]*m", "", said).strip().splitlines()[-1:]
    message = f"the image {image.reference} cannot be unpacked: {' '.join(text)}"
    if "No space left" in said:
        hint = "free some space where the store lies"
        return HermeticError(Domain.ENVIRONMENT, "disk-full", message, hint=hint)
    if re.search(r"(?i)diff ?id|digest|verif|unexpected EOF|gzip|checksum", said):
        return HermeticError(Domain.HASH, "image-mismatch", message, hint="whoever made the image made it wrong")
    return HermeticError(
        Domain.ENVIRONMENT, "image-unsupported", message, hint="umoci could not read one of its layers"
    )


def _make_readable(folder: str) -> None:
    """Whatever the umask was: root's unpacking runs as another user."""
    for place, _, files in os.walk(folder):
        os.chmod(place, 0o755)  # noqa: S103  # what everybody may read in a registry
        for name in files:
            os.chmod(f"{place}/{name}", 0o644)


def _finish(image: Image, pulled: oci.Pulled, work: str, target: str) -> None:
    from hermetic.store import remove_tree  # noqa: PLC0415  # only this path needs it

    root = f"{work}/out/rootfs"
    _check(image, root)
    _add_places(image, root)
    with open(f"{work}/out/config.json", "wb") as stream:
        stream.write(pulled.content)
    os.chown(f"{work}/out", os.geteuid(), os.getegid())
    os.rename(f"{work}/out", target)
    stored.seal(target, pulled.digest, image.reference, variables(pulled.config.variables))
    remove_tree(work)


def _check(image: Image, root: str) -> None:
    """No device, pipe or socket, and every name of every file inside: a second pair of eyes on what umoci did."""
    links: Counter[tuple[int, int]] = Counter()
    expected: dict[tuple[int, int], int] = {}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        for entry in _entries(folder):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                waiting.append(entry.path)
            elif not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                raise _refused(image, entry.path, root, "is a device, a pipe or a socket")
            elif status.st_nlink > 1:
                links[status.st_dev, status.st_ino] += 1
                expected[status.st_dev, status.st_ino] = status.st_nlink
    if links != expected:
        raise _refused(image, root, root, "has a hard link to a file outside")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    mode = stat.S_IMODE(os.lstat(folder).st_mode)
    if mode & 0o500 != 0o500:
        os.chmod(folder, mode | 0o500)  # unreadable to a stage, which is its owner, and to us
    with os.scandir(folder) as found:
        return list(found)


def _refused(image: Image, path: str, root: str, what: str) -> HermeticError:
    message = f"the image {image.reference} was refused: /{os.path.relpath(path, root)} {what}"
    return HermeticError(Domain.ENVIRONMENT, "image-refused", message, hint="make the image without it")


def _add_places(image: Image, root: str) -> None:
    """Empty folders and files where the sandbox mounts something: in a read-only root none could be made."""
    from hermetic.store import remove_tree  # noqa: PLC0415  # only this path needs it

    for name in _FOLDERS:
        place = f"{root}/{name}"
        if os.path.islink(place) or (os.path.lexists(place) and not os.path.isdir(place)):
            if name != "var/tmp":
                raise _refused(image, place, root, "is no folder, and the sandbox needs one there")
            os.unlink(place)
        if not os.path.isdir(place):
            _make_place(place, folder=True)
    for name in _FILES:
        place = f"{root}/{name}"
        if os.path.islink(place) or not os.path.isfile(place):
            remove_tree(place)
            _make_place(place, folder=False)
    os.utime(root, (_EPOCH, _EPOCH))  # which layers need not have


def _make_place(place: str, *, folder: bool) -> None:
    """Empty, of whoever the image's other files belong to; nothing about it or its parent tells when it was made."""
    parent = os.path.dirname(place)
    before = os.lstat(parent)
    os.chmod(parent, stat.S_IMODE(before.st_mode) | 0o300)
    if folder:
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    os.chmod(place, 0o755 if folder else 0o644)
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(place, before.st_uid, before.st_gid)
    os.utime(place, (_EPOCH, _EPOCH))
    os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
