"""What nixpkgs' ``dockerTools.pullImage`` makes of an image, which Nix wants to know beforehand: the archive's sha256.

That archive is skopeo's, with every layer unpacked, so no digest of a registry says it: the image is pulled once. The
command is pullImage's own (nixpkgs, pkgs/build-support/docker/default.nix). A skopeo that writes its archives another
way gives another hash; Nix then says which it got.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from typing import Final

from hermetic.errors import Domain, HermeticError

__all__ = ["archive_hash"]

_NAME: Final = "image:pinned"  # as nix/stages.nix has it
_LOOPBACK: Final = ("127.0.0.1:", "localhost:", "[::1]:")  # a registry there has no certificate


def archive_hash(repository: str, digest: str, platform: str) -> str:
    """The sha256, in hexadecimal, of the archive of ``repository@digest`` for `platform` ("linux/amd64").

    Needs room for the whole image in the folder for temporary files (``TMPDIR``).

    Raises `HermeticError`: environment/no-skopeo, environment/image-not-pulled.
    """
    tool = shutil.which("skopeo")
    if tool is None:
        message = "skopeo, which nixpkgs' pullImage pulls images with, is not installed"
        raise HermeticError(Domain.ENVIRONMENT, "no-skopeo", message, hint="nix shell nixpkgs#skopeo")
    system, _, machine = platform.partition("/")
    with tempfile.TemporaryDirectory() as scratch:
        archive = os.path.join(scratch, "image.tar")
        words = [tool, "--insecure-policy", "--tmpdir", scratch, "--override-os", system, "--override-arch", machine]
        words += ["copy", "--quiet", *(["--src-tls-verify=false"] if repository.startswith(_LOOPBACK) else [])]
        words += [f"docker://{repository}@{digest}", f"docker-archive:{archive}:{_NAME}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = f"{repository}@{digest} could not be pulled: {done.stderr.strip()[-800:]}"
            hint = "check the network, the login (skopeo login) and the room in TMPDIR"
            raise HermeticError(Domain.ENVIRONMENT, "image-not-pulled", message, hint=hint)
        with open(archive, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
