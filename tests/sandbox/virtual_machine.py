"""A small virtual machine without a disk: a kernel, and a file system of a few files in memory, made here."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

_LEFT_OUT = {"__pycache__", "test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "dist-packages", "tkinter"}
# The first file system of a kernel can never be changed for another (pivot_root), which bubblewrap wants to do.
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t tmpfs -o mode=0755 tmpfs /new
cd / && /bin/busybox cp -a {folders} /new
/bin/busybox mount -t devtmpfs devtmpfs /new/dev
exec /bin/busybox switch_root /new {command}
"""


def kernel() -> Path | None:
    """A kernel image to boot: ``TEST_KERNEL``, else the newest of this machine."""
    named = os.environ.get("TEST_KERNEL")
    found = [Path(named)] if named else sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    readable = [path for path in found if os.access(path, os.R_OK)]
    return readable[-1] if readable else None


class Files:
    """The file system, as the archive that a kernel unpacks (cpio, "newc")."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes]] = {}

    def folder(self, place: str) -> None:
        for index in (i for i, letter in enumerate(f"{place}/") if letter == "/" and i):
            self._entries.setdefault(place[:index], (stat.S_IFDIR | 0o755, b""))

    def file(self, place: str, content: bytes, mode: int = 0o755) -> None:
        self.folder(os.path.dirname(place))
        self._entries[place] = (stat.S_IFREG | mode, content)

    def link(self, place: str, target: str) -> None:
        self.folder(os.path.dirname(place))
        self._entries[place] = (stat.S_IFLNK | 0o777, target.encode())

    def tree(self, source: Path, place: str) -> None:
        for folder, folders, names in os.walk(source):
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            inside = place + folder.removeprefix(str(source))
            self.folder(inside)
            for name in names:
                self.file(f"{inside}/{name}", Path(folder, name).read_bytes())

    def program(self, path: Path, place: str) -> None:
        """A program and the libraries that it is linked with, these where they lie here."""
        self.file(place, path.read_bytes())
        said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", said):
            self.file(library, Path(library).read_bytes())

    def boots_into(self, command: str) -> None:
        tops = sorted({place.split("/")[1] for place in self._entries})
        self.folder("/new")
        self.file("/init", _INIT.format(folders=" ".join(tops), command=command).encode())

    def archive(self) -> bytes:
        parts = [part for place in sorted(self._entries) for part in _entry(place[1:], *self._entries[place])]
        return gzip.compress(b"".join([*parts, *_entry("TRAILER!!!", 0, b"")]), 1)


def _entry(name: str, mode: int, content: bytes) -> Iterable[bytes]:
    fields = [0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name.encode()) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)


def boot(image: Path, files: Files, folder: Path, options: str) -> str:
    """What a machine with that kernel and those files writes to its console, until it switches itself off."""
    archive = folder / "initramfs"
    archive.write_bytes(files.archive())
    emulator = shutil.which("qemu-system-x86_64")
    assert emulator is not None
    # Emulated whatever this machine can do: a machine in a machine may offer KVM and not keep its word.
    machine = ["-m", "2048", "-smp", "2", "-nographic", "-no-reboot", "-accel", "tcg,thread=multi", "-cpu", "max"]
    append = f"console=ttyS0 quiet panic=-1 random.trust_cpu=on {options}"
    command = [emulator, *machine, "-kernel", str(image), "-initrd", str(archive), "-append", append]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=280, check=False)
    return done.stdout.decode(errors="replace")
