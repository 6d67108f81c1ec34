"""Bringing an image: from everywhere it may lie, by its digest, whatever the other side does."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import image_kit as kit
import pytest
from fake_registry import REPOSITORY, FakeRegistry
from image_harness import need

from hermetic.errors import Domain, HermeticError
from hermetic.fetch import oci, oci_registry
from hermetic.fetch.oci_credentials import find_credentials

BIG = os.urandom(3 << 20)


@pytest.fixture
def made(tmp_path) -> kit.Made:
    layers = [kit.layer(kit.entry("first", b"1")), kit.layer(kit.entry("big", BIG)), kit.layer(kit.entry("last", b"3"))]
    return kit.make_layout(tmp_path / "made", layers, variables=("PATH=/bin", "A=1"))


@pytest.fixture
def fake(made):
    with FakeRegistry(made.folder) as registry:
        yield registry


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home without any login, and no pauses between attempts."""
    folder = tmp_path / "home"
    (folder / ".docker").mkdir(parents=True)
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / ".config"))
    monkeypatch.setattr(oci_registry, "_PAUSE_S", 0)
    return folder


@pytest.fixture(autouse=True)
def _at_home(home) -> None:
    pass


def pull(
    reference: str, digest: str, folder: Path, config: str = "", progress=lambda _done, _total: None
) -> oci.Pulled:
    return asyncio.run(oci.pull(reference, digest, config, str(folder), progress))


def refused(reference: str, digest: str, folder: Path, **named) -> HermeticError:
    with pytest.raises(HermeticError) as caught:
        pull(reference, digest, folder, **named)
    return caught.value


def blobs(folder: Path) -> dict[str, str]:
    return {path.name: kit.digest_of(path.read_bytes()) for path in (folder / "blobs/sha256").iterdir()}


def is_sound(folder: Path, made: kit.Made) -> bool:
    found = blobs(folder)
    wanted = {digest.removeprefix("sha256:") for digest in (*made.layers, made.config)}
    return wanted <= found.keys() and all(f"sha256:{name}" == digest for name, digest in found.items())


def test_from_a_registry(fake, made, tmp_path):
    seen = []
    pulled = pull(fake.reference(), made.digest, tmp_path / "x", progress=lambda *pair: seen.append(pair))
    assert is_sound(tmp_path / "x", made)
    assert pulled.config.variables == ("PATH=/bin", "A=1")
    total = sum(made.blob(digest).stat().st_size for digest in made.layers)
    assert seen[-1] == (total, total)
    assert all(done <= total for done, _ in seen)


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
@pytest.mark.parametrize("tag", [":t", ""])
def test_from_a_layout_or_an_archive(made, tmp_path, transport, tag):
    place = made.folder
    if transport == "oci-archive":
        place = tmp_path / "a.tar"
        subprocess.run(["tar", "-cf", place, "-C", made.folder, "."], check=True)
    entry = asyncio.run(oci.resolve(f"{transport}:{place}{tag}"))
    assert entry.platforms["linux/amd64"].digest == made.digest
    pull(f"{transport}:{place}", made.digest, tmp_path / "x")
    assert is_sound(tmp_path / "x", made)


def test_the_archive_that_skopeo_writes(made, tmp_path):
    need("skopeo")
    copy = ["skopeo", "copy", "--quiet", made.reference, f"oci-archive:{tmp_path}/a.tar:v1"]
    subprocess.run(copy, check=True, capture_output=True)
    pull(f"oci-archive:{tmp_path}/a.tar:v1", made.digest, tmp_path / "x")
    assert is_sound(tmp_path / "x", made)


@pytest.mark.parametrize("reference", ["oci:/nowhere", "oci-archive:/nowhere.tar"])
def test_a_layout_that_is_not_there(made, tmp_path, reference):
    error = refused(reference, made.digest, tmp_path / "x")
    assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "image-not-found")


def test_a_tag_that_a_layout_does_not_have(made):
    with pytest.raises(HermeticError) as caught:
        asyncio.run(oci.resolve(f"oci:{made.folder}:other"))
    assert caught.value.reason == "image-not-found"
    assert "its tags: t" in caught.value.hint


def test_an_index_is_locked_for_each_platform(tmp_path, made):
    other = kit.make_layout(tmp_path / "arm", [kit.layer(kit.entry("x"))], architecture="arm64")
    index = kit.add_index(tmp_path / "both", {"linux/amd64": made, "linux/arm64": other, "unknown/unknown": other}, "t")
    with FakeRegistry(tmp_path / "both") as registry:
        entry = asyncio.run(oci.resolve(registry.reference()))
        assert entry.index == index
        assert {name: item.digest for name, item in entry.platforms.items()} == {
            "linux/amd64": made.digest,
            "linux/arm64": other.digest,
        }
        error = refused(registry.reference(), index, tmp_path / "x")
    assert (error.domain, error.reason) == (Domain.RECIPE, "image-is-index")


def test_what_docker_makes_becomes_what_umoci_reads(tmp_path):
    made = kit.make_layout(tmp_path / "made", [kit.layer(kit.entry("x", b"1"))], docker=True)
    with FakeRegistry(made.folder) as registry:
        pull(registry.reference(), made.digest, tmp_path / "x")
    subprocess.run(
        ["umoci", "raw", "unpack", "--rootless", "--image", f"{tmp_path}/x:image", tmp_path / "root"], check=True
    )
    assert (tmp_path / "root/x").read_bytes() == b"1"


class TestNothingIsBelieved:
    def test_another_manifest(self, fake, made, tmp_path):
        fake.behaviour.replaced[made.digest] = made.blob(made.digest).read_bytes() + b" "
        self.mismatch(fake, made, tmp_path)

    def test_another_configuration(self, fake, made, tmp_path):
        fake.behaviour.replaced[made.config] = b"{}"
        self.mismatch(fake, made, tmp_path)

    def test_another_layer_of_the_same_size(self, fake, made, tmp_path):
        content = bytearray(made.blob(made.layers[1]).read_bytes())
        content[1000] ^= 1
        fake.behaviour.replaced[made.layers[1]] = bytes(content)
        self.mismatch(fake, made, tmp_path, gone=made.layers[1])

    @pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"x" * 5_000_000])
    def test_a_layer_of_another_size(self, fake, made, tmp_path, change):
        fake.behaviour.replaced[made.layers[1]] = change(made.blob(made.layers[1]).read_bytes())
        self.mismatch(fake, made, tmp_path, gone=made.layers[1])

    def test_a_layer_of_a_layout(self, made, tmp_path):
        path = made.blob(made.layers[1])
        path.write_bytes(path.read_bytes()[:-1])
        error = refused(made.reference, made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.HASH, "image-mismatch")
        assert made.layers[1].removeprefix("sha256:") not in str(list((tmp_path / "x/blobs/sha256").iterdir()))

    def mismatch(self, fake, made, tmp_path, gone=""):
        error = refused(fake.reference(), made.digest, tmp_path / "x")
        assert (error.domain, error.reason, error.exit_code) == (Domain.HASH, "image-mismatch", 102)
        left = [path.name for path in (tmp_path / "x").rglob("*") if path.is_file()]
        assert not any(gone.removeprefix("sha256:") in name for name in left if gone)
        fake.behaviour.replaced.clear()
        pull(fake.reference(), made.digest, tmp_path / "x")
        assert is_sound(tmp_path / "x", made)


class TestInterruptions:
    def test_a_broken_connection_is_taken_up_where_it_broke(self, fake, made, tmp_path):
        size = made.blob(made.layers[1]).stat().st_size
        fake.behaviour.cut[made.layers[1]] = [1_000_000, 500_000]
        seen = []
        pull(fake.reference(), made.digest, tmp_path / "x", progress=lambda done, total: seen.append((done, total)))
        assert is_sound(tmp_path / "x", made)
        asked = fake.bytes_asked(made.layers[1])
        assert asked[0] == ""
        assert [text.partition("-")[0] for text in asked[1:]] == ["bytes=1000000", "bytes=1500000"]
        assert asked[-1].endswith(f"-{size - 1}")
        assert seen[-1][0] == seen[-1][1]

    def test_a_registry_without_ranges_starts_again(self, fake, made, tmp_path):
        fake.behaviour.ranges = False
        fake.behaviour.cut[made.layers[1]] = [1_000_000]
        seen = []
        pull(fake.reference(), made.digest, tmp_path / "x", progress=lambda done, total: seen.append((done, total)))
        assert is_sound(tmp_path / "x", made)
        assert seen[-1][0] == seen[-1][1]

    def test_an_earlier_pull_s_bytes_are_used(self, fake, made, tmp_path):
        fake.behaviour.cut[made.layers[1]] = [1_000_000] + [0] * 20
        error = refused(fake.reference(), made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "registry-unreachable")
        whole = [name for name in blobs(tmp_path / "x") if not name.endswith(".partial")]
        fake.behaviour.cut.clear()
        fake.requests.clear()
        pull(fake.reference(), made.digest, tmp_path / "x")
        assert fake.bytes_asked(made.layers[1])[0].startswith("bytes=1000000-")
        assert not any(fake.bytes_asked(f"sha256:{name}") for name in whole)
        assert is_sound(tmp_path / "x", made)

    def test_an_earlier_pull_s_bytes_are_verified(self, fake, made, tmp_path):
        folder = tmp_path / "x/blobs/sha256"
        folder.mkdir(parents=True)
        name = made.layers[1].removeprefix("sha256:")
        (folder / f"{name}.partial").write_bytes(b"x" * 1000)
        error = refused(fake.reference(), made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.HASH, "image-mismatch")
        assert not (folder / f"{name}.partial").exists()
        pull(fake.reference(), made.digest, tmp_path / "x")
        (folder / name).write_bytes(b"x" * len(made.blob(made.layers[1]).read_bytes()))
        assert refused(fake.reference(), made.digest, tmp_path / "x").reason == "image-mismatch"

    def test_a_busy_registry_is_asked_again(self, fake, made, tmp_path):
        fake.behaviour.busy = 3
        pull(fake.reference(), made.digest, tmp_path / "x")

    def test_a_registry_that_stays_busy(self, fake, made, tmp_path):
        fake.behaviour.busy = 100
        error = refused(fake.reference(), made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "registry-failed")

    def test_nobody_there(self, made, tmp_path):
        error = refused("127.0.0.1:9/team/tool:t", made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "registry-unreachable")

    def test_no_such_image(self, fake, made, tmp_path):
        error = refused(fake.reference(), "sha256:" + "0" * 64, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "image-not-found")


class TestLogins:
    """Who we are is found where docker and podman leave it, and goes nowhere but to the registry."""

    def config(self, home: Path, **document) -> None:
        (home / ".docker/config.json").write_text(json.dumps(document))

    def auth(self, fake, password: str = "") -> str:
        pair = f"{fake.behaviour.user}:{password or fake.behaviour.password}"
        return base64.b64encode(pair.encode()).decode()

    @pytest.mark.parametrize("login", ["basic", "bearer"])
    def test_docker_s_file(self, fake, made, home, tmp_path, login):
        fake.behaviour.login = login
        self.config(home, auths={fake.host: {"auth": self.auth(fake)}})
        pull(fake.reference(), made.digest, tmp_path / "x")

    def test_podman_s_file(self, fake, made, home, tmp_path):
        fake.behaviour.login = "basic"
        (home / ".config/containers").mkdir(parents=True)
        document = {"auths": {fake.host: {"auth": self.auth(fake)}}}
        (home / ".config/containers/auth.json").write_text(json.dumps(document))
        pull(fake.reference(), made.digest, tmp_path / "x")

    @pytest.mark.parametrize("field", ["credHelpers", "credsStore"])
    def test_a_helper(self, fake, made, home, tmp_path, monkeypatch, field):
        fake.behaviour.login = "bearer"
        self.helper(home, monkeypatch, {"Username": fake.behaviour.user, "Secret": fake.behaviour.password})
        self.config(home, **{field: {fake.host: "test"} if field == "credHelpers" else "test"})
        pull(fake.reference(), made.digest, tmp_path / "x")
        assert (home / "asked").read_text() == fake.host

    @pytest.mark.parametrize("from_helper", [True, False])
    def test_an_identity_token(self, fake, made, home, tmp_path, monkeypatch, from_helper):
        fake.behaviour.login = "bearer"
        if from_helper:
            self.helper(home, monkeypatch, {"Username": "<token>", "Secret": fake.behaviour.identity_token})
            self.config(home, credsStore="test")
        else:
            self.config(home, auths={fake.host: {"identitytoken": fake.behaviour.identity_token}})
        pull(fake.reference(), made.digest, tmp_path / "x")

    def test_a_helper_that_is_missing(self, fake, made, home, tmp_path):
        fake.behaviour.login = "basic"
        self.config(home, credHelpers={fake.host: "missing"})
        error = refused(fake.reference(), made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "credential-helper")

    def test_nobody_is_asked_for_a_login_that_is_not_needed(self, fake, made, home, tmp_path):
        self.config(home, credHelpers={fake.host: "missing"})
        pull(fake.reference(), made.digest, tmp_path / "x")

    @pytest.mark.parametrize("login", ["basic", "bearer"])
    @pytest.mark.parametrize("known", [True, False])
    def test_a_refusal_says_what_to_do_and_no_secret(self, fake, made, home, tmp_path, login, known):
        fake.behaviour.login = login
        if known:
            self.config(home, auths={fake.host: {"auth": self.auth(fake, "wrong-password-secret")}})
        error = refused(fake.reference(), made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "registry-denied")
        assert f"docker login {fake.host}" in error.hint
        said = repr(error) + str(error) + str(error.hint) + repr(error.__cause__) + repr(error.data)
        assert "secret" not in said

    def test_a_redirect_gets_no_login_and_its_address_stays_secret(self, fake, made, home, tmp_path):
        fake.behaviour.login = "bearer"
        fake.behaviour.redirect = True
        self.config(home, auths={fake.host: {"auth": self.auth(fake)}})
        pull(fake.reference(), made.digest, tmp_path / "x")
        elsewhere = [request for request in fake.requests if request.path.startswith("/elsewhere/")]
        assert elsewhere
        assert not any("Authorization" in request.headers for request in elsewhere)
        fake.behaviour.cut[made.layers[1]] = [0] * 50
        error = refused(fake.reference(), made.digest, tmp_path / "y")
        assert "secret" not in str(error) + str(error.hint)

    def test_nothing_is_left_of_a_login(self, fake, made, home, tmp_path):
        fake.behaviour.login = "bearer"
        self.config(home, auths={fake.host: {"auth": self.auth(fake)}})
        pull(fake.reference(), made.digest, tmp_path / "x")
        secrets = (fake.behaviour.password, fake.behaviour.token, self.auth(fake))
        for path in (tmp_path / "x").rglob("*"):
            if path.is_file():
                assert not any(secret.encode() in path.read_bytes() for secret in secrets)
        assert "secret" not in repr(find_credentials(fake.host, os.environ))

    def helper(self, home: Path, monkeypatch, answer: dict[str, str]) -> None:
        tool = home / "docker-credential-test"
        tool.write_text(f"#!/bin/sh\ncat > {home}/asked\necho '{json.dumps(answer)}'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    need("openssl")
    key, crt = tmp_path / "tls.key", tmp_path / "tls.crt"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:registry.test"]
    subprocess.run([*command.split(), "-keyout", key, "-out", crt, *names], check=True, capture_output=True)
    return crt, key


class TestCertificates:
    @pytest.fixture
    def secure(self, made, certificate):
        with FakeRegistry(made.folder, certificate) as registry:
            yield registry

    def test_an_unknown_authority_is_refused(self, secure, made, tmp_path):
        """On loopback plain HTTP is tried next, and a TLS server does not speak it."""
        assert refused(secure.reference(), made.digest, tmp_path / "x").domain is Domain.ENVIRONMENT

    def test_ssl_cert_file(self, secure, made, certificate, tmp_path, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        pull(secure.reference(), made.digest, tmp_path / "x")

    def test_the_engines_folder(self, secure, made, certificate, home, tmp_path):
        folder = home / ".config/containers/certs.d" / secure.host
        folder.mkdir(parents=True)
        shutil.copy(certificate[0], folder / "ca.crt")
        pull(secure.reference(), made.digest, tmp_path / "x")

    def test_a_proxy(self, secure, made, certificate, tmp_path, monkeypatch):
        """Only through it is there a host called registry.test."""
        from image_proxy import Proxy

        with Proxy(secure.port) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            pull(f"registry.test/{REPOSITORY}:t", made.digest, tmp_path / "x")
            assert proxy.asked == {"registry.test:443"}
            error = refused(f"other.test/{REPOSITORY}:t", made.digest, tmp_path / "y")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "registry-unreachable")
        assert "certificate" in error.message


class TestStorage:
    """Podman's own storage, for real; skopeo reads docker's in the same way, which nobody has tried here."""

    @pytest.fixture
    def kept(self, made, tmp_path, monkeypatch) -> str:
        need("skopeo", "podman")
        if os.geteuid() != 0:
            pytest.skip("needs root: podman's storage without root needs subordinate ids")
        conf = tmp_path / "storage.conf"
        conf.write_text(f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n')
        monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
        name = "containers-storage:localhost/tool:1"
        subprocess.run(["skopeo", "copy", "--quiet", made.reference, name], check=True, capture_output=True)
        return name

    def test_the_same_digest_and_the_same_files(self, kept, made, tmp_path):
        entry = asyncio.run(oci.resolve(kept))
        assert entry.platforms["linux/amd64"].digest == made.digest
        pull(kept, made.digest, tmp_path / "x")
        command = ["umoci", "raw", "unpack", "--rootless", "--image", f"{tmp_path}/x:image", tmp_path / "root"]
        subprocess.run(command, check=True)
        assert (tmp_path / "root/big").read_bytes() == BIG

    def test_another_image_under_the_name(self, kept, made, tmp_path):
        other = "sha256:" + "1" * 64
        error = refused(kept, other, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.HASH, "image-mismatch")
        error = refused(kept, other, tmp_path / "x", config="sha256:" + "2" * 64)
        assert (error.domain, error.reason) == (Domain.HASH, "image-mismatch")

    def test_the_configuration_will_do_where_the_manifest_is_lost(self, kept, made, tmp_path):
        """As in docker's storage, which keeps no manifest: everything below it is verified all the same."""
        pull(kept, "sha256:" + "1" * 64, tmp_path / "x", config=made.config)

    def test_no_such_image(self, kept, made, tmp_path):
        error = refused("containers-storage:localhost/none:1", made.digest, tmp_path / "x")
        assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "image-not-found")
