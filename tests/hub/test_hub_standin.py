"""The stand-in answers the real client as a Hub does."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import hub_kit as kit
import huggingface_hub
import pytest
from huggingface_hub import HfApi, errors, snapshot_download

from hermetic.testing.hub import Blob, Fault, Hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def test_a_snapshot_is_what_was_committed(hub: Hub, tmp_path: Path) -> None:
    files = kit.model() | {"sub/folder/notes.txt": b"text"}
    commit = hub.repository("acme/tiny").commit(files)
    place = Path(snapshot_download("acme/tiny", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
    assert place.name == commit
    assert {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()} == files


def test_listings_have_sizes_and_digests_and_pages(hub: Hub, api: HfApi) -> None:
    hub.page = 2
    files = kit.model(shards=3)
    hub.repository("acme/tiny").commit(files)
    listed = {item.path: item for item in api.list_repo_tree("acme/tiny", recursive=True)}
    assert listed.keys() == files.keys()
    for name, content in files.items():
        found = listed[name]
        assert found.size == len(content)
        if name.endswith(".safetensors"):
            assert found.lfs.sha256 == hashlib.sha256(content).hexdigest()
        else:
            assert found.lfs is None
    assert len([item for item in hub.served if "/tree/" in item.path]) == 3
    info = api.model_info("acme/tiny", files_metadata=True)
    assert {item.rfilename: item.size for item in info.siblings} == {name: len(text) for name, text in files.items()}


def test_folders_one_by_one(hub: Hub, api: HfApi) -> None:
    hub.repository("acme/text", kind="dataset").commit({"a.txt": b"", "data/x.txt": b"", "data/y/z.txt": b""})
    top = [item.path for item in api.list_repo_tree("acme/text", repo_type="dataset")]
    assert sorted(top) == ["a.txt", "data"]
    assert sorted(i.path for i in api.list_repo_tree("acme/text", "data", repo_type="dataset")) == [
        "data/x.txt",
        "data/y",
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_digests_are_git_s(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    said = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True, check=True, text=True)
    assert Blob.of(tmp_path / "file", lfs=False).git == said.stdout.strip()


def test_revisions(hub: Hub, api: HfApi) -> None:
    tiny = hub.repository("acme/tiny")
    first = tiny.commit({"a": b"1"})
    second = tiny.commit({"a": b"2"})
    tiny.tags["v1"] = first
    tiny.commit({"a": b"3"}, branch="next/one")
    assert [api.model_info("acme/tiny", revision=name).sha for name in ("main", "v1", first)] == [second, first, first]
    assert {ref.name for ref in api.list_repo_refs("acme/tiny").branches} == {"main", "next/one"}
    assert api.model_info("acme/tiny", revision="next/one").sha == tiny.branches["next/one"]
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("acme/tiny", revision="v2")


def test_what_is_not_there(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.repository("acme/tiny").commit({"a": b"1"})
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("acme/other")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        api.hf_hub_download("acme/tiny", "b", cache_dir=tmp_path)


def test_gates(hub: Hub, tmp_path: Path) -> None:
    tiny = hub.repository("acme/tiny", gated=True, allowed={"hf_in"})
    tiny.commit({"a": b"1"})
    hub.tokens = {"hf_in": "alice", "hf_out": "bob"}

    def download(token: str | bool) -> str:
        return HfApi(endpoint=hub.endpoint, token=token).hf_hub_download("acme/tiny", "a", cache_dir=tmp_path)

    for token, status in ((False, 401), ("hf_out", 403)):
        with pytest.raises(errors.GatedRepoError) as caught:
            download(token)
        assert caught.value.response.status_code == status
    assert Path(download("hf_in")).read_bytes() == b"1"
    assert HfApi(endpoint=hub.endpoint).whoami(token="hf_in")["name"] == "alice"


def test_large_files_come_from_elsewhere_without_the_token(hub: Hub, tmp_path: Path) -> None:
    hub.repository("acme/tiny").commit(kit.model())
    snapshot_download("acme/tiny", endpoint=hub.endpoint, token="hf_in", cache_dir=tmp_path)
    assert {item.token for item in hub.bodies()} == {""}
    assert {item.token for item in hub.served if "/resolve/" in item.path} == {"hf_in"}


def test_faults_strike_as_often_as_asked(hub: Hub) -> None:
    hub.repository("acme/tiny").commit({"a": b"1"})
    hub.fault(Fault("/resolve/", times=1, status=429, headers={"Retry-After": "0"}))
    client = huggingface_hub.get_session()
    url = f"{hub.endpoint}/acme/tiny/resolve/main/a"
    assert [client.get(url).status_code for _ in range(2)] == [429, 200]


def test_folders_of_repositories(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    for commit in ("1", "2"):
        place = tmp_path / "models" / "acme" / "tiny" / commit
        place.mkdir(parents=True)
        (place / "config.json").write_text(commit)
    hub.load(tmp_path)
    assert len(hub.repositories["model", "acme/tiny"].commits) == 2
    assert Path(api.hf_hub_download("acme/tiny", "config.json", cache_dir=tmp_path / "c")).read_text() == "2"
