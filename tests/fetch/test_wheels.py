"""Installing a lock: the folder depends on the wheels alone, and every failure has its reason."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from wheel_index import Index

from hermetic.errors import Domain, HermeticError
from hermetic.fetch import wheels
from hermetic.fetch.wheel_lock import parse_lock

SHEBANG = "/build/env/python/bin/python3.11"


def install(lock: str, place: Path, url: str) -> Path:
    place.mkdir(parents=True)
    work = wheels.install(
        parse_lock(lock, "lock"),
        str(place / "out"),
        python=os.path.realpath(sys.executable),
        scratch=str(place / "scratch"),
        shebang=SHEBANG,
        indexes={"pypi": url},
    )
    asyncio.run(work)
    return place / "out"


def contents(folder: Path) -> dict[str, tuple[bytes, bool]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), os.access(path, os.X_OK)) for path in files}


def test_two_installs_are_equal_and_name_no_place(index: Index, tmp_path: Path) -> None:
    lock = index.add("tool", {"tool/__init__.py": "def main(): pass\n"}, scripts="tool = tool:main")
    lock += "\n" + index.add("lib", {"lib.py": "x = 1\n"})
    first = install(lock, tmp_path / "one", index.url)
    second = install(lock, tmp_path / "a-much-longer-name-for-the-second" / ("x" * 120), index.url)
    assert contents(first) == contents(second)
    everything = b"".join(data for data, _ in contents(first).values())
    assert str(tmp_path).encode() not in everything
    assert os.path.realpath(sys.executable).encode() not in everything


def test_scripts_start_with_the_sandboxs_interpreter(index: Index, tmp_path: Path) -> None:
    lock = index.add("tool", {"tool/__init__.py": "def main(): pass\n"}, scripts="tool = tool:main")
    script = install(lock, tmp_path / "one", index.url) / "bin/tool"
    assert script.read_text().splitlines()[0] == f"#!{SHEBANG}"
    assert os.access(script, os.X_OK)


def test_installers_notes_are_gone_and_record_is_true(index: Index, tmp_path: Path) -> None:
    lock = index.add("tool", {"tool/__init__.py": "def main(): pass\n"}, scripts="tool = tool:main")
    out = install(lock, tmp_path / "one", index.url)
    info = out / "tool-1.0.dist-info"
    assert sorted(os.listdir(info)) == ["METADATA", "RECORD", "WHEEL", "entry_points.txt"]
    assert sorted(os.listdir(out)) == ["bin", "tool", "tool-1.0.dist-info"]
    listed = {line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()}
    assert listed == set(contents(out))


def test_of_a_file_in_two_wheels_the_last_by_name_stays(index: Index, tmp_path: Path) -> None:
    lock = "\n".join(index.add(name, {"shared/x.txt": name, f"{name}.py": ""}) for name in ("bbb", "aaa", "ccc"))
    for turn in range(3):
        assert (install(lock, tmp_path / str(turn), index.url) / "shared/x.txt").read_text() == "ccc"


def test_markers_select(index: Index, tmp_path: Path) -> None:
    name, _, rest = index.add("never", {"never.py": ""}).partition(" ")
    lock = f"{name} ; python_version < '3' {rest}\n" + index.add("always", {"always.py": ""})
    out = install(lock, tmp_path / "one", index.url)
    assert (out / "always.py").exists()
    assert not (out / "never.py").exists()


def test_an_empty_lock_is_an_empty_folder(tmp_path: Path) -> None:
    assert contents(install("# nothing\n", tmp_path / "one", "http://127.0.0.1:1")) == {}


def failure(lock: str, place: Path, url: str) -> HermeticError:
    with pytest.raises(HermeticError) as caught:
        install(lock, place, url)
    return caught.value


def test_other_bytes_than_locked(index: Index, tmp_path: Path) -> None:
    name, _, _ = index.add("tool", {"tool.py": ""}).partition(" ")
    error = failure(f"{name} --hash=sha256:{'0' * 64}", tmp_path / "one", index.url)
    assert (error.domain, error.reason, error.exit_code) == (Domain.HASH, "wheel-mismatch", 102)
    assert "tool" in error.message


def test_an_index_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = failure(f"tool==1.0 --hash=sha256:{'0' * 64}", tmp_path / "one", url)
    assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "index-unreachable")
    assert error.hint is not None


def test_a_wheel_that_no_index_has(index: Index, tmp_path: Path) -> None:
    error = failure(f"absent==1.0 --hash=sha256:{'0' * 64}", tmp_path / "one", index.url)
    assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "wheel-not-found")


def test_a_version_that_no_index_has(index: Index, tmp_path: Path) -> None:
    index.add("tool", {"tool.py": ""})
    error = failure(f"tool==2.0 --hash=sha256:{'0' * 64}", tmp_path / "one", index.url)
    assert (error.domain, error.reason) == (Domain.ENVIRONMENT, "wheel-not-found")


def test_no_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HermeticError) as caught:
        wheels.find_uv()
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "no-uv")
    assert caught.value.hint is not None


def test_nothing_is_written_to_the_home(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    install(index.add("tool", {"tool.py": ""}), tmp_path / "one", index.url)
    assert os.listdir(home) == []


def test_bytes_are_told(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_POLL_S", 0.0)
    told: list[int] = []
    place = tmp_path / "one"
    place.mkdir()
    work = wheels.install(
        parse_lock(index.add("tool", {"tool.py": "x" * 100_000}), "lock"),
        str(place / "out"),
        python=os.path.realpath(sys.executable),
        scratch=str(place / "scratch"),
        shebang=SHEBANG,
        indexes={"pypi": index.url},
        progress=told.append,
    )
    asyncio.run(work)
    assert told
    assert all(isinstance(each, int) for each in told)
