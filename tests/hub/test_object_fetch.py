"""Objects of an S3-compatible store: moto's server, and obstore as the client."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import hub_kit as kit
import pytest

from hermetic.fetch.fixed import resolve

pytest.importorskip("obstore", reason="needs obstore (the objects extra)")
pytest.importorskip("moto", reason="needs moto[s3], flask and flask-cors")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "object_server.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture
def put(server: str, monkeypatch, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Put objects into a bucket of this test; returns the bucket."""
    bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with urllib.request.urlopen(urllib.request.Request(f"{server}/{bucket}", method="PUT")):
        pass

    def put(objects: dict[str, bytes]) -> str:
        import obstore
        from obstore.store import from_url

        store = from_url(f"s3://{bucket}", client_options={"allow_http": True})
        for name, content in objects.items():
            obstore.put(store, name, content)
        return bucket

    return put


def test_everything_below_a_prefix(put, tmp_path: Path) -> None:
    files = kit.model()
    bucket = put({f"models/tiny/{name}": content for name, content in files.items()} | {"models/other": b"1"})
    item = kit.locked(f"s3://{bucket}/models/tiny/", check=False)
    assert item.name == "tiny"
    assert {file.origin for file in item.entry.files.values()} == {"fetched"}
    assert kit.fetch(item, tmp_path) == files


def test_one_object(put, tmp_path: Path) -> None:
    bucket = put({"a/b.bin": b"12345"})
    assert kit.fetch(kit.locked(f"s3://{bucket}/a/b.bin", check=False), tmp_path) == {"b.bin": b"12345"}


def test_only_what_the_patterns_choose_is_read(put) -> None:
    bucket = put({"m/a.json": b"{}", "m/b.bin": b"1"})
    entry = resolve([kit.output(f"s3://{bucket}/m/", allow=("*.json",), check=False)], None)
    assert [bool(entry.files[name].sha256) for name in ("a.json", "b.bin")] == [True, False]
    assert all(file.sha256 for file in resolve([kit.output(f"s3://{bucket}/m/")], entry).files.values())


def test_an_object_that_was_replaced(put, tmp_path: Path) -> None:
    item = kit.locked(f"s3://{put({'m/a': b'12345'})}/m/", check=False)
    put({"m/a": b"54321"})
    assert kit.reason(lambda: kit.fetch(item, tmp_path)) == "hash/file-mismatch"


def test_it_goes_on_where_it_was(put, tmp_path: Path) -> None:
    content = kit.safetensors(kit.MEGABYTE)
    item = kit.locked(f"s3://{put({'m/a': content})}/m/", check=False)
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
    bucket = put({})
    assert kit.reason(lambda: kit.locked(f"s3://{bucket}/a")) == "environment/origin-no-file"
    assert kit.reason(lambda: kit.locked(f"s3://{bucket}-none/a")) == "environment/origin-no-file"
