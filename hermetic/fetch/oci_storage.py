"""Images that podman or docker has already: skopeo takes them out of either's storage.

Neither keeps the compressed layers that a manifest names. What comes out are the same layers uncompressed, which the
image's configuration names by their own digests, and the manifest names the configuration: so a whole chain of
digests still ties what is unpacked to what was asked for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from typing import Final, Self

from hermetic.errors import Domain, HermeticError
from hermetic.fetch.mortal import dies_with_driver
from hermetic.fetch.oci_manifest import Descriptor, check, parse_manifest
from hermetic.fetch.oci_zstd import PLAIN
from hermetic.recipe.image_reference import ImageReference

__all__ = ["Storage"]

_KEPT: Final = (
    *("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "STORAGE_DRIVER"),
    *("DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
)


class Storage:
    """One image in podman's (``containers-storage:NAME``) or docker's (``docker-daemon:NAME``) storage.

    Raises `HermeticError`: environment/no-skopeo, environment/image-not-found, hash/image-mismatch.
    """

    def __init__(self, reference: ImageReference) -> None:
        self.described = reference.pinned
        self._source = reference.pinned
        self._scratch = tempfile.TemporaryDirectory(prefix="hermetic-", ignore_cleanup_errors=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._scratch.cleanup)

    async def manifest(self, which: str) -> tuple[bytes, str]:
        """The manifest that the image was pulled or built with; `which` is a digest that it must have, or ""."""
        content = await self._skopeo("inspect", "--raw", self._source)
        return (
            check(content, which, f"the manifest of {self.described}") if which.startswith("sha256:") else content
        ), ""

    async def read(self, descriptor: Descriptor) -> bytes:
        """The configuration."""
        content = await self._skopeo("inspect", "--config", "--raw", self._source)
        return check(content, descriptor.digest, f"the configuration of {self.described}")

    async def layers(self, folder: str) -> list[Descriptor]:
        """Take the image's layers out into the layout `folder`; what they are called there, bottom first.

        skopeo names each by its digest, and no more: nothing is verified here.
        """
        place = f"{folder}/taken"  # as files: into a layout skopeo would compress them again
        await self._skopeo("copy", "--quiet", "--dest-decompress", self._source, f"dir:{place}")
        return await asyncio.to_thread(_move, place, f"{folder}/blobs/sha256", self.described)

    async def _skopeo(self, *arguments: str) -> bytes:
        tool = shutil.which("skopeo")
        if tool is None:
            message = "skopeo, which takes images out of podman's and docker's storage, is not installed"
            raise HermeticError(Domain.ENVIRONMENT, "no-skopeo", message, hint="apt-get install skopeo")
        process = await asyncio.create_subprocess_exec(
            tool, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True, preexec_fn=dies_with_driver(),
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | {"TMPDIR": self._scratch.name},
        )  # fmt: skip
        try:
            said, complaint = await process.communicate()
        except BaseException:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        if process.returncode != 0:
            text = complaint.decode(errors="replace").strip().splitlines()[-1:]
            message = f"skopeo could not take {self.described}: {' '.join(text)}"
            raise HermeticError(Domain.ENVIRONMENT, "image-not-found", message, hint=f"skopeo inspect {self._source}")
        return said


def _move(place: str, target: str, what: str) -> list[Descriptor]:
    with open(f"{place}/manifest.json", "rb") as stream:
        manifest = parse_manifest(stream.read(), "", what)
    found = [Descriptor(PLAIN, layer.digest, layer.size) for layer in manifest.layers] if manifest is not None else []
    for name in {layer.hex for layer in found}:
        os.rename(f"{place}/{name}", f"{target}/{name}")
    shutil.rmtree(place)
    return found
