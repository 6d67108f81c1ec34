"""Layers that zstd compressed: from a layout and a real registry, and as wrong as others may make them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import image_kit as kit
import pytest
from image_harness import User, need

from hermetic.errors import Domain, HermeticError
from hermetic.fetch import oci

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd")

LAYERS = [kit.layer(kit.entry("first", b"1")), kit.layer(kit.entry("big", os.urandom(3 << 20)))]


def make(folder: Path, pack=zstd.compress, *, docker: bool = False) -> kit.Made:
    return kit.make_layout(folder, LAYERS, pack=pack, packed_as="zstd", docker=docker)


def pull(made: kit.Made, folder: Path) -> None:
    asyncio.run(oci.pull(made.reference, made.digest, "", str(folder), lambda _done, _total: None))


def refused(made: kit.Made, folder: Path) -> HermeticError:
    with pytest.raises(HermeticError) as caught:
        pull(made, folder)
    return caught.value


def in_frames(content: bytes) -> bytes:
    """Several frames and one to skip, as tools write that let parts be read alone."""
    half = len(content) // 2
    skip = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"none"
    return zstd.compress(content[:half]) + skip + zstd.compress(content[half:]) + skip


@pytest.mark.parametrize("pack", [zstd.compress, in_frames])
@pytest.mark.parametrize("docker", [False, True])
def test_umoci_is_given_them_uncompressed(tmp_path, pack, docker):
    made = make(tmp_path / "made", pack, docker=docker)
    pull(made, tmp_path / "x")
    index = json.loads((tmp_path / "x/index.json").read_bytes())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    listed = json.loads((tmp_path / f"x/blobs/sha256/{digest}").read_bytes())["layers"]
    assert [item["digest"] for item in listed] == [kit.digest_of(layer) for layer in LAYERS]
    for item, layer in zip(listed, LAYERS, strict=True):
        assert item["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
        assert (tmp_path / "x/blobs/sha256" / item["digest"].removeprefix("sha256:")).read_bytes() == layer


class TestRefused:
    def test_other_content_than_the_configuration_says(self, tmp_path):
        """Its own digest is right: only the uncompressed one shows it."""
        made = make(tmp_path / "made", lambda content: zstd.compress(content.replace(b"1", b"2")))
        error = refused(made, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.HASH, "image-mismatch")
        assert "when uncompressed" in error.message

    @pytest.mark.parametrize("pack", [lambda content: zstd.compress(content)[:-5], lambda _content: b"no frame at all"])
    def test_a_broken_frame(self, tmp_path, pack):
        error = refused(make(tmp_path / "made", pack), tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.HASH, "image-mismatch")

    def test_nothing_unverified_is_left(self, tmp_path):
        made = make(tmp_path / "made", lambda content: zstd.compress(content + b"more"))
        refused(made, tmp_path / "x")
        left = {path.name: kit.digest_of(path.read_bytes()) for path in (tmp_path / "x/blobs/sha256").iterdir()}
        assert all(digest == f"sha256:{name}" for name, digest in left.items())

    def test_without_a_library(self, tmp_path, monkeypatch):
        for name in ("backports.zstd", "compression", "compression.zstd"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delattr("backports.zstd", raising=False)
        error = refused(make(tmp_path / "made"), tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "no-zstd")


def test_an_interrupted_pull_goes_on_from_the_compressed_layer(tmp_path):
    made = make(tmp_path / "made")
    (tmp_path / "x/blobs/sha256").mkdir(parents=True)
    plain = kit.digest_of(LAYERS[1]).removeprefix("sha256:")
    (tmp_path / f"x/blobs/sha256/{plain}.partial").write_bytes(b"half of it")
    (tmp_path / f"x/blobs/sha256/{plain}").write_bytes(b"not what it is called")
    pull(made, tmp_path / "x")
    assert (tmp_path / f"x/blobs/sha256/{plain}").read_bytes() == LAYERS[1]


def test_a_stage_runs_in_what_a_registry_has_with_zstd(me: User, registry: str, area: Path, shell_layer: bytes):
    need("skopeo")
    layers = [shell_layer, kit.layer(kit.folder("etc"), kit.entry("etc/motd", b"compressed\n"))]
    made = kit.make_layout(area / "zstd", layers, pack=zstd.compress, packed_as="zstd")
    reference = f"{registry}/tools/zstd:1"
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--preserve-digests", made.reference]
    subprocess.run([*copy, f"docker://{reference}"], check=True, capture_output=True)
    me.recipe(reference, "cat /etc/motd > /build/out/motd")
    assert me("lock", "recipe.py").status == 0
    assert made.digest in (me.folder / "recipe.lock.json").read_text()
    assert (me("realise", "recipe.py", "--no-link").path / "motd").read_text() == "compressed\n"
