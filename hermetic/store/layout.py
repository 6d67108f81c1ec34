"""Where everything of a store lies, and what makes a folder a store.

Nothing recorded inside names the store's own place, so a store can be moved or copied (``cp -a``).
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import suppress
from typing import TypeVar

from hermetic.digest import BlobDigest, Digest, Key, ResolvedKey, TreeDigest
from hermetic.errors import Domain, HermeticError
from hermetic.store.faults import storing
from hermetic.store.syncpoint import reach

__all__ = [
    "EPOCH_NS", "FOLDERS", "FORMAT", "Layout", "create", "current_boot", "is_shared", "is_store", "make_folders",
    "open_shared", "write_atomic",
]  # fmt: skip

FORMAT = b"hermetic store 1\n"
FOLDERS = (
    "store", "blobs", "trees", "derivations", "realisations", "resolved", "pending", "images", "builds",
    "roots", "profiles", "leases", "locks", "tmp", "trash",
)  # fmt: skip
EPOCH_NS = 315_532_800 * 10**9  # 1980-01-01T00:00:00Z: zipfile refuses anything earlier

_UNFINISHED = ".format-"
_VERSION = re.compile(rb"hermetic store ([0-9]{1,9})\n")
_NAME = re.compile(r"[A-Za-z0-9_+=?][A-Za-z0-9._+=?-]{0,210}")
_NFS = 0x6969
_SHARED = stat.S_ISGID | stat.S_IWGRP

D = TypeVar("D", bound=Digest)


class Layout:
    """Paths of one store, as strings."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def folder(self, name: str) -> str:
        return f"{self.root}/{name}"

    def temporary(self, name: str) -> str:
        """A place on the same file system; a name that begins with a run's id and a dash goes with that run."""
        return f"{self.folder('tmp')}/{name}"

    def output(self, key: Key, name: str) -> str:
        """Raises `HermeticError` (recipe/bad-name) for a name that no file system entry could carry."""
        if _NAME.fullmatch(name) is None:
            raise HermeticError(
                Domain.RECIPE,
                "bad-name",
                f"{name!r} cannot be part of a store path",
                hint="use letters, digits and any of . _ + = ? -, at most 211 of them, and no dot or dash first",
            )
        return f"{self.root}/store/{key.base32}-{name}"

    def blob(self, digest: BlobDigest, *, executable: bool) -> str:
        return f"{self.root}/blobs/{digest.hex[:2]}/{digest.hex}{'.x' if executable else ''}"

    def tree(self, digest: TreeDigest) -> str:
        return f"{self.root}/trees/{digest.hex[:2]}/{digest.hex}"

    def preimage(self, key: Key) -> str:
        return f"{self.root}/derivations/{key.hex[:2]}/{key.hex}"

    def record(self, key: Key) -> str:
        return f"{self.root}/realisations/{key.hex[:2]}/{key.hex}"

    def resolved(self, key: ResolvedKey) -> str:
        return f"{self.root}/resolved/{key.hex[:2]}/{key.hex}"


def is_shared(folder: str) -> bool:
    """Whether what is made in `folder` is for its whole group: set-group-id, and writable for the group."""
    return os.stat(folder).st_mode & _SHARED == _SHARED


def make_folders(path: str) -> None:
    """Like ``os.makedirs(exist_ok=True)``; in a folder that a group shares the new one is shared too, whatever the
    umask, and from its first moment on: another member may be waiting for it.
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folders(parent)
    if not is_shared(parent):
        with suppress(FileExistsError):
            os.mkdir(path)
        return
    new = f"{parent}/.new-{os.urandom(8).hex()}"
    os.mkdir(new)
    try:
        os.chmod(new, 0o2775)  # noqa: S103  # members of the group trust each other fully
        os.rename(new, path)
    except OSError:
        os.rmdir(new)
        if not os.path.isdir(path):  # another process was first, and uses it already
            raise


def open_shared(path: str, flags: int) -> int:
    """Open `path`, making it if need be; in a folder that a group shares all may write to it, whatever the umask."""
    mode = 0o664 if is_shared(os.path.dirname(path)) else 0o644
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode)
    status = os.fstat(descriptor)
    if mode == 0o664 and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)
    return descriptor


def create(root: str) -> None:
    """Make `root` a store, or finish what a killed process began. Harmless when several processes do it at once."""
    with storing(root):
        _make_root(root)
        _check_creatable(root)
        unfinished = f"{root}/{_UNFINISHED}{os.urandom(8).hex()}"
        # First of all a name that no other program leaves, so that a half-made store is told from a foreign folder.
        with open(unfinished, "wb") as file:
            file.write(FORMAT)
            os.fchmod(file.fileno(), 0o644)  # whatever the umask: who may enter the folder may know what it is
            file.flush()
            os.fsync(file.fileno())  # or a power loss could leave a format file that says nothing: no store any more
        reach("create.after-unfinished")
        for folder in FOLDERS:
            make_folders(f"{root}/{folder}")
        os.close(open_shared(f"{root}/locks/gc", os.O_RDWR))
        _sync_folder(root)
        reach("create.after-folders")
        with suppress(FileNotFoundError):  # another process was first, and took ours away with its own
            os.rename(unfinished, f"{root}/format")
        reach("create.after-format")
        _sync_folder(root)
        _forget_unfinished(root)


def _make_root(root: str) -> None:
    try:
        make_folders(root)
        os.listdir(root)
    except (FileExistsError, NotADirectoryError) as error:
        raise HermeticError(
            Domain.ENVIRONMENT,
            "not-a-store",
            f"{root} cannot be a store: {error.filename} is not a folder",
            hint="choose another place with --store or HERMETIC_STORE",
        ) from error


def _check_creatable(root: str) -> None:
    names = os.listdir(root)
    if "format" in names or any(name.startswith(_UNFINISHED) for name in names):
        return
    if names:
        raise HermeticError(
            Domain.ENVIRONMENT,
            "not-a-store",
            f"{root} is neither a store nor empty (it holds {min(names)!r})",
            hint="choose an empty folder with --store or HERMETIC_STORE",
        )
    if filesystem_magic(root) == _NFS:
        raise HermeticError(
            Domain.ENVIRONMENT,
            "store-on-nfs",
            f"{root} lies on NFS, whose locks and links a store cannot rely on",
            hint="choose a folder on a local ext4, xfs or btrfs file system with --store or HERMETIC_STORE",
        )


def _forget_unfinished(root: str) -> None:
    for name in os.listdir(root):
        if name.startswith(_UNFINISHED):
            with suppress(FileNotFoundError):
                os.unlink(f"{root}/{name}")


def filesystem_magic(path: str) -> int:
    """The ``f_type`` of statfs(2), which `os.statvfs` leaves out."""
    import ctypes  # noqa: PLC0415  # only at creation; costs more than opening a store

    buffer = ctypes.create_string_buffer(512)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little")


def is_store(root: str) -> bool:
    """Whether `root` is a store of this format. Raises `HermeticError` when it is one that cannot be used."""
    try:
        with open(f"{root}/format", "rb") as file:
            text = file.read(64)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise HermeticError(
            Domain.ENVIRONMENT,
            "store-unreadable",
            f"no permission to read the store at {root}",
            hint="choose another store with --store or HERMETIC_STORE",
        ) from error
    if text == FORMAT:
        return True
    match = _VERSION.fullmatch(text)
    if match is None:
        raise HermeticError(Domain.ENVIRONMENT, "not-a-store", f"{root}/format does not say what kind of store it is")
    raise HermeticError(
        Domain.ENVIRONMENT,
        "store-too-new",
        f"the store at {root} has format {int(match[1])}; this version of hermetic reads format 1",
        hint="upgrade hermetic, or choose another store with --store or HERMETIC_STORE",
    )


def current_boot() -> str:
    """What tells this boot of the machine from any other."""
    if override := os.environ.get("HERMETIC_TEST_BOOT_ID"):
        return override
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def write_atomic(layout: Layout, path: str, data: bytes, *, durable: bool = False) -> None:
    """Put `data` at `path` so that a reader sees all of it or what was there before, making the folder if needed.

    `durable` means on the disk when this returns.
    """
    descriptor, temporary = _create_held(layout)
    try:
        _fill(descriptor, data, durable=durable)
        reach("write.after-temporary")
        _rename_into(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    if durable:
        _sync_folder(os.path.dirname(path))
        _sync_folder(os.path.dirname(os.path.dirname(path)))


def _create_held(layout: Layout) -> tuple[int, str]:
    """A new temporary file, locked so that a sweep can tell it from one whose writer died."""
    while True:
        path = layout.temporary(f"f-{os.urandom(8).hex()}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if is_shared(os.path.dirname(path)):
            os.fchmod(descriptor, 0o664)  # whatever the umask
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # a sweep came between the two calls


def _rename_into(temporary: str, path: str) -> None:
    for _ in range(100):
        try:
            os.rename(temporary, path)
            return
        except FileNotFoundError:
            # The folder is not there yet, or another process has just removed it because it was empty.
            make_folders(os.path.dirname(path))
    os.rename(temporary, path)


def _fill(descriptor: int, data: bytes, *, durable: bool) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    if durable:
        os.fsync(descriptor)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
