"""What the disk must hold, before anything was ever built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermetic.fetch.checkpoint import dimensions
from hermetic.llm import memory
from hermetic.llm.convert import Convert
from hermetic.llm.tensorrt_llm import Engine, Quantise
from hermetic.recipe import FixedOutput, Host, Source
from hermetic.recipe.lockfile import FixedEntry, LockedFile

CONFIGS = json.loads((Path(__file__).parents[1] / "llm" / "capacity_configs.json").read_text())
GIVEN = {"environment": Host(paths=("/bin/sh",)), "release": "1.2.1"}
STORED = 65_524_246_528
RECIPE = """\
from hermetic import Image, Source
from hermetic.llm import tensorrt_llm
given = {{"environment": Image("registry.example.com/builder:7@sha256:" + "0" * 64), "release": "1.2.1"}}
weights = tensorrt_llm.Quantise(snapshot=Source("model"), format="int8_wo", **given)
engine = default = tensorrt_llm.Engine(checkpoint=weights{more}, **given)
"""


def fetched(config: dict[str, object] | None = None) -> FixedOutput:
    """Qwen3-32B as a lock file has it, with its dimensions or without."""
    kept = dimensions(json.dumps(config).encode()) if config else {}
    files = {"model-1.safetensors": LockedFile(size=STORED), "README.md": LockedFile(size=10)}
    return FixedOutput("hf://Qwen/Qwen3-32B@main", entry=FixedEntry(files=files, config=kept))


class TestWeights:
    def test_by_the_sizes_of_the_lock_file(self) -> None:
        weights = Quantise(snapshot=fetched(), format="int4_wo", **GIVEN)
        assert weights.expected_bytes() == STORED // 4
        assert Engine(checkpoint=weights, **GIVEN).expected_bytes() == STORED // 4
        assert Convert(snapshot=fetched(), **GIVEN).expected_bytes() == STORED

    def test_by_the_dimensions_embeddings_stay_as_they_are(self) -> None:
        known = fetched(CONFIGS["qwen3-32b"])
        expected = Engine(checkpoint=Quantise(snapshot=known, format="int4_wo", **GIVEN), **GIVEN).expected_bytes()
        assert expected is not None
        assert STORED // 4 < expected < STORED // 3

    def test_what_is_not_known_is_not_guessed(self, tmp_path: Path) -> None:
        assert Engine(checkpoint=Source(tmp_path), **GIVEN).expected_bytes() is None
        stripped = Engine(checkpoint=fetched(), options={"strip_plan": True}, **GIVEN)
        assert stripped.expected_bytes() is None

    @pytest.mark.parametrize(("limit", "codes"), [(0, []), (60_000, ["disk-limit"]), (63_000, [])])
    def test_against_the_limit(self, limit: int, codes: list[str]) -> None:
        stage = Convert(snapshot=fetched(), disk_mb=limit, **GIVEN)
        assert [one.code for one in memory.disk_findings(stage)] == codes


class TestCommands:
    @pytest.fixture
    def write(self, tmp_path: Path):
        def make(size: int, more: str = "") -> None:
            (tmp_path / "model").mkdir()
            with (tmp_path / "model" / "model.safetensors").open("wb") as stream:
                stream.truncate(size)
            (tmp_path / "recipe.py").write_text(RECIPE.format(more=more))

        return make

    def test_a_plan_counts_checkpoint_and_engine(self, cli, write) -> None:
        write(2_000_000)
        first, again = cli("plan", "recipe.py"), cli("plan", "recipe.py")
        assert first.stderr.endswith("; the disk must hold 2.0 MB more\n")
        assert (again.stdout, again.stderr) == (first.stdout, first.stderr)
        documents = [json.loads(line) for line in cli("plan", "recipe.py", "--json").lines]
        assert {one["stage"]: one.get("expected_bytes") for one in documents} == {
            "weights": 1_000_000,
            "engine": 1_000_000,
        }

    def test_lint_of_a_limit(self, cli, write) -> None:
        write(8 << 20, ", disk_mb=2")
        (found,) = [json.loads(line) for line in cli("lint", "recipe.py", "--json").lines]
        assert (found["severity"], found["code"], found["where"]) == ("warning", "disk-limit", "engine: disk_mb")
        assert "disk_mb=4 or more" in found["hint"]
