"""``hermetic link``, ``profile`` and ``import``, as people meet them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from store_kit import ENGINE, Bench, fill

from hermetic.store import Realisation


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "elsewhere")}


@pytest.fixture
def engines(bench: Bench) -> tuple[Realisation, Realisation]:
    return bench.make({"rank0.engine": b"1", **ENGINE}, "one"), bench.make({"rank0.engine": b"2", **ENGINE}, "two")


def test_link_roll_back_and_prune(cli, bench, engines, home, tmp_path) -> None:
    one, two = engines
    link = tmp_path / "home/.cache/trtllm-engines/qwen3"
    done = cli("link", "qwen3", bench.path(one), env=home)
    assert (done.lines, done.exit_code) == ([str(link)], 0), done.stderr
    assert done.stderr == f"qwen3 is at generation 1: {bench.path(one)}\n"
    assert cli("link", "qwen3", two.key.base32[:10], "--cause", "faster", env=home).exit_code == 0
    assert os.readlink(link) == str(bench.path(two))
    assert cli("profile", "list", env=home).lines == [f"qwen3  {link}  2  {bench.path(two)}"]
    assert cli("gc", env=home).stdout == ""

    back = cli("profile", "rollback", "qwen3", "--cause", "worse answers", env=home)
    assert (back.lines, back.stderr) == ([str(link)], f"qwen3 is at generation 3: {bench.path(one)}\n")
    assert os.readlink(link) == str(bench.path(one))
    rows = [line.split(maxsplit=4) for line in cli("profile", "history", "qwen3", env=home).lines]
    assert [(row[0], row[-1].split("  ")[1]) for row in rows[2:]] == [("*", "worse answers")]
    shown = [json.loads(line) for line in cli("profile", "history", "qwen3", "--json", env=home).lines]
    assert [(row["generation"], row["previous"], row["restores"], row["current"]) for row in shown] == [
        (1, 0, 0, False), (2, 1, 0, False), (3, 2, 1, True),
    ]  # fmt: skip
    assert cli("profile", "rollback", "qwen3", "--to", "7", env=home).exit_code == 2
    pruned = cli("profile", "prune", "qwen3", "--keep", "1", env=home)
    assert [line.split()[0] for line in pruned.lines] == ["1", "2"]
    assert len(cli("gc", env=home).lines) == 1
    assert bench.store.realisation(two.key) is None
    assert bench.store.realisation(one.key) is not None


def test_another_folder_and_json(cli, bench, engines, tmp_path) -> None:
    one, _ = engines
    done = cli("link", "qwen3", bench.path(one), "--to", tmp_path / "srv", "--json")
    assert json.loads(done.stdout) == {
        "link": str(tmp_path / "srv/qwen3"), "generation": 1, "path": str(bench.path(one)),
    }  # fmt: skip


def test_a_folder_outside(cli, bench, tmp_path, home) -> None:
    outside = fill(tmp_path / "mine", ENGINE)
    done = cli("link", "mine", outside, env=home)
    assert done.exit_code == 0
    assert "nothing here keeps it" in done.stderr
    assert (tmp_path / "home/.cache/trtllm-engines/mine/config.json").exists()


def test_what_cannot_be_linked(cli, bench, engines, tmp_path, home) -> None:
    place = tmp_path / "home/.cache/trtllm-engines"
    fill(place, {"taken": b"mine"})
    refused = cli("link", "taken", bench.path(engines[0]), env=home)
    assert refused.exit_code == 2
    assert "usage/link-exists" in refused.stderr
    assert (place / "taken").read_text() == "mine"
    assert "usage/unknown-path" in cli("link", "new", "nowhere", env=home).stderr
    assert "usage/unknown-path" in cli("link", "new", tmp_path / "nowhere", env=home).stderr
    assert os.listdir(place) == ["taken"]


RECIPE = """
from hermetic import Host, Script
engine = Script("x.sh", environment=Host(paths=("/bin/true",)))
"""


def test_a_recipe_must_be_realised_already(cli, bench, tmp_path, home) -> None:
    (tmp_path / "x.sh").write_text("#!/bin/sh\n")
    (tmp_path / "x.sh").chmod(0o755)
    (tmp_path / "recipe.py").write_text(RECIPE)
    refused = cli("link", "new", "recipe.py#engine", env=home)
    assert "usage/not-realised" in refused.stderr
    assert "hermetic realise recipe.py#engine" in refused.stderr


def test_import_says_what_it_cannot_know(cli, bench, tmp_path, home) -> None:
    folder = fill(tmp_path / ("0" * 32 + "-trtllm-engine-qwen3"), ENGINE)
    done = cli("import", folder)
    assert done.exit_code == 0, done.stderr
    (path,) = done.lines
    assert path.endswith("-trtllm-engine-qwen3")
    assert not path.endswith("0" * 32 + "-trtllm-engine-qwen3")
    assert "impure" in done.stderr
    assert "nothing keeps it alive yet" in done.stderr
    (line,) = cli("tree", path).lines
    assert line.split()[1] == "import"
    again = cli("import", folder, "--out-link", tmp_path / "result", "--json")
    assert json.loads(again.stdout)["impure"] is True
    assert os.readlink(tmp_path / "result") == path
    assert cli("gc").stdout == ""
    named = cli("import", folder, "--name", "mine")
    assert named.stdout.strip().endswith("-mine")
    assert cli("import", tmp_path / "nowhere").exit_code == 2
    assert cli("import", folder, "--name", "a/b").exit_code == 3
