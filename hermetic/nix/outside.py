"""A builder that Nix runs without its sandbox starts itself again in one: what a stage sees is the same then."""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

from hermetic.sandbox import abi

__all__ = ["DRIVER", "enter"]

#: Where NixOS and nix-required-mounts put a GPU's driver; elsewhere whoever builds without Nix's sandbox does.
DRIVER: Final = "/run/opengl-driver"


def enter(bwrap: str, name: str) -> NoReturn:
    """Become the same builder inside bubblewrap, with the build's folder as ``/build`` and no network.

    The program that runs is a process of its own all the same, so nothing but the variables and the arguments carries
    over. Raises `OSError` if `bwrap` cannot be started; if the kernel does not let it, it says so itself.
    """
    sys.stderr.write(f"hermetic: {name} is built without Nix's sandbox, in one of bubblewrap's\n")
    sys.stderr.flush()
    place = os.environ["NIX_BUILD_TOP"]
    variables = {key: _moved(text, place) for key, text in os.environ.items()}
    os.execve(bwrap, [*_words(bwrap, place), sys.executable, *sys.orig_argv[1:]], variables)  # noqa: S606


def _moved(text: str, place: str) -> str:
    return abi.BUILD + text[len(place) :] if text == place or text.startswith(f"{place}/") else text


def _words(bwrap: str, place: str) -> list[str]:
    words = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    words += ["--uid", str(abi.UID), "--gid", str(abi.GID), "--hostname", abi.HOST_NAME, "--die-with-parent"]
    words += ["--bind", "/nix/store", "/nix/store", "--bind", place, abi.BUILD, "--proc", "/proc"]
    words += ["--dev-bind", "/dev", "/dev", "--tmpfs", "/dev/shm", "--ro-bind-try", "/sys", "/sys"]  # noqa: S108
    words += ["--ro-bind-try", DRIVER, DRIVER, "--tmpfs", "/tmp"]  # noqa: S108
    for name, text in abi.ETC.items():
        descriptor = os.memfd_create(name, 0)  # which lives on through exec
        os.write(descriptor, text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        words += ["--ro-bind-data", str(descriptor), f"/etc/{name}"]
    return [*words, "--chdir", abi.BUILD, "--"]
