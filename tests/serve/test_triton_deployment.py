"""An engine is served only if every byte of it is the one that was promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hermetic.digest import hash_bytes
from hermetic.errors import Domain, HermeticError
from hermetic.serve.triton_deployment import files_hash, manifest_files, read_deployment, verify
from hermetic.serve.triton_subject import Engine, find_engine, vouch
from hermetic.store import Store, import_tree


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    (folder / "deep").mkdir(parents=True)
    for name in ("config.json", "model.bin", "deep/table"):
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def listed(folder: Path) -> dict[str, Any]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(folder).as_posix(): {"blake3": hash_bytes(path.read_bytes()).hex} for path in files}


def describe(folder: Path) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"files": listed(folder)}))
    return path


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store.open(store_root, create=True)


def refused(folder: Path, store: Store, **given: Any) -> HermeticError:
    with pytest.raises(HermeticError) as caught:
        vouch(Engine("e", str(folder), "here"), given.get("manifest"), store)
    assert caught.value.domain is Domain.TRUST
    return caught.value


def test_a_whole_engine_is_served(engine: Path, store: Store) -> None:
    manifest = describe(engine)
    assert vouch(Engine("e", str(engine), "here"), None, store) == str(manifest)


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_one_byte(engine: Path, store: Store, at: int) -> None:
    describe(engine)
    data = bytearray((engine / "model.bin").read_bytes())
    data[at] ^= 1
    (engine / "model.bin").write_bytes(data)
    error = refused(engine, store)
    assert (error.reason, error.data["problems"]) == ("engine-changed", ["model.bin has other bytes"])


def test_every_difference_is_named(engine: Path, store: Store) -> None:
    describe(engine)
    (engine / "deep" / "table").unlink()
    (engine / "extra").touch()
    (engine / "config.json").write_bytes(b"{}")
    error = refused(engine, store)
    assert error.data["problems"] == ["config.json has other bytes", "deep/table is missing", "extra is not listed"]


def test_nothing_vouches_for_it(engine: Path, store: Store) -> None:
    assert refused(engine, store).reason == "no-manifest"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {}}', '{"files": {"a": {}}}', '{"files": 3}'])
def test_a_manifest_that_is_none(engine: Path, store: Store, text: str) -> None:
    (engine / "manifest.json").write_text(text)
    assert refused(engine, store).reason == "manifest-invalid"


def test_a_manifest_that_lies_elsewhere(engine: Path, store: Store, tmp_path: Path) -> None:
    manifest = describe(engine).rename(tmp_path / "manifest.json")
    assert vouch(Engine("e", str(engine), "here"), str(tmp_path), store) == str(manifest)


def test_the_store_vouches_for_its_own_until_it_is_damaged(engine: Path, store: Store) -> None:
    with store.begin() as run:
        made = import_tree(run, engine, "engine")
    path = made.path(store)
    assert vouch(Engine("e", str(path), "here"), None, store) is None
    victim = path / "model.bin"
    victim.chmod(0o644)
    victim.write_bytes(b"x" * victim.stat().st_size)
    assert refused(path, store).reason == "engine-changed"


def found(name: str, store: Store, tmp_path: Path, **environ: str) -> Engine:
    return find_engine(name, store, str(tmp_path / "links"), environ)


def test_where_a_name_is_looked_for(engine: Path, store: Store, tmp_path: Path) -> None:
    """The variable, else the profile, else the link; a path is a path."""
    links, other = tmp_path / "links", tmp_path / "other"
    links.mkdir()
    other.mkdir()
    (links / "qwen3").symlink_to(other)
    shown = found("qwen3", store, tmp_path)
    assert (shown.path, shown.link) == (str(other), str(links / "qwen3"))
    store.profile("qwen3").switch(str(engine), tmp_path / "profiled", cause="test")
    shown = found("qwen3", store, tmp_path)
    assert (shown.path, shown.link) == (str(engine), str(tmp_path / "profiled" / "qwen3"))
    for variable in ("ENGINE_PATH", "TRTLLM_ENGINE_PATH"):
        assert found("qwen3", store, tmp_path, **{variable: str(other)}).path == str(other)
    assert found(str(engine), store, tmp_path, TRTLLM_ENGINE_PATH=str(other)).path == str(engine)


def test_names_that_lead_nowhere(engine: Path, store: Store, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "dangling").symlink_to(tmp_path / "nothing")
    store.profile("gone").switch(str(engine), links, cause="test")
    engine.rename(tmp_path / "moved")
    for name, where in (
        ("dangling", (Domain.STORE, "profile-nowhere")),
        ("gone", (Domain.STORE, "profile-nowhere")),
        ("never", (Domain.USAGE, "no-engine")),
        ("./never", (Domain.USAGE, "no-engine")),
    ):
        with pytest.raises(HermeticError) as caught:
            found(name, store, tmp_path)
        assert (caught.value.domain, caught.value.reason) == where


def promise(folder: Path) -> dict[str, Any]:
    part = {"hash": files_hash(listed(folder)), "files": listed(folder)}
    return {
        "deployment": 1, "kind": "openvino", "quantisation": "int4_sym", "limits": {"max_seq_len": 2048},
        "models": ["tensorrt_llm"], "tensors": "0.20", "engine": part, "tokenizer": part,
    }  # fmt: skip


def test_a_deployment_is_read(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_text(json.dumps(promise(engine)))
    deployment = read_deployment(tmp_path)
    verify("engine", str(engine), deployment.engine_files, whole=True)
    assert deployment.engine_hash.startswith("blake3:")


def test_deployments_that_can_not_be_believed(engine: Path, tmp_path: Path) -> None:
    good = promise(engine)
    other = {**good["engine"], "hash": "blake3:" + "0" * 64}
    for bad in ({**good, "deployment": 2}, {**good, "engine": other}, {"deployment": 1}, [], {**good, "models": 3}):
        (tmp_path / "deployment.json").write_text(json.dumps(bad))
        with pytest.raises(HermeticError) as caught:
            read_deployment(tmp_path)
        assert (caught.value.domain, caught.value.reason) == (Domain.TRUST, "deployment-invalid")
    with pytest.raises(HermeticError) as caught:
        read_deployment(engine)
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "no-deployment")


def test_files_of_a_manifest_are_all_that_counts(engine: Path) -> None:
    assert manifest_files(str(describe(engine))) == listed(engine)
