"""Images made by hand, byte by byte, so that they can be as wrong as a test needs them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


@dataclass(frozen=True)
class Made:
    """A layout with one image: its digests, and the tag it has."""

    folder: Path
    digest: str
    config: str
    layers: tuple[str, ...]
    tag: str = "t"

    @property
    def reference(self) -> str:
        return f"oci:{self.folder}:{self.tag}"

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs/sha256" / digest.removeprefix("sha256:")


def entry(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **fields: object) -> tuple:
    """One entry of a layer: `fields` are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def folder(name: str, **fields: object) -> tuple:
    return entry(name, kind=tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tuple:
    return entry(name, kind=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target)


def layer(*entries: tuple) -> bytes:
    """An uncompressed layer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if content else None)
    return stream.getvalue()


def make_layout(
    target: Path,
    layers: Iterable[bytes],
    *,
    variables: Iterable[str] = ("PATH=/bin",),
    architecture: str = "amd64",
    docker: bool = False,
    tag: str = "t",
    pack: Callable[[bytes], bytes] = lambda content: gzip.compress(content, mtime=0),
    packed_as: str = "gzip",
) -> Made:
    """An OCI layout in `target` with one image of these uncompressed layers, each of them packed by `pack`."""
    (target / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    plain = list(layers)
    packed = [pack(content) for content in plain]
    kind = f"{DOCKER}.image.rootfs.diff.tar.{packed_as}" if docker else f"{OCI}.layer.v1.tar+{packed_as}"
    settings = {"Env": list(variables), "Entrypoint": ["/bin/nothing"], "User": "4711", "WorkingDir": "/nowhere"}
    root = {"type": "layers", "diff_ids": [digest_of(content) for content in plain]}
    config = _json({"architecture": architecture, "os": "linux", "config": settings, "rootfs": root})
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json",
        "config": _put(target, config, f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"),
        "layers": [_put(target, content, kind) for content in packed],
    }
    described = _put(target, _json(manifest), str(manifest["mediaType"]))
    write_index(target, [described | {"annotations": {"org.opencontainers.image.ref.name": tag}}])
    return Made(target, described["digest"], digest_of(config), tuple(map(digest_of, packed)), tag)


def write_index(target: Path, manifests: list[dict]) -> None:
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (target / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": manifests}))


def add_index(target: Path, platforms: dict[str, Made], tag: str) -> str:
    """An index of several platforms' images in the layout `target`; its digest."""
    listed = []
    for name, made in platforms.items():
        system, _, architecture = name.partition("/")
        for path in (made.folder / "blobs/sha256").iterdir():
            (target / "blobs/sha256").mkdir(parents=True, exist_ok=True)
            (target / "blobs/sha256" / path.name).write_bytes(path.read_bytes())
        described = {"mediaType": f"{OCI}.manifest.v1+json", "digest": made.digest}
        described["size"] = made.blob(made.digest).stat().st_size
        listed.append(described | {"platform": {"os": system, "architecture": architecture}})
    content = _json({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed})
    described = _put(target, content, f"{OCI}.index.v1+json")
    write_index(target, [described | {"annotations": {"org.opencontainers.image.ref.name": tag}}])
    return str(described["digest"])


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _put(target: Path, content: bytes, media_type: str) -> dict:
    digest = digest_of(content)
    (target / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
