"""`recipes/qwen3.py`: planned with its real pins, and built to the end with stand-ins for Hub and TensorRT-LLM."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hermetic.recipe.lockfile import LockFile
from hermetic.sandbox import tools
from hermetic.testing.hub import Hub
from hermetic.testing.trtllm.image import StandinImage, build_image

RECIPES = Path(__file__).parents[2] / "recipes"
DIGEST = "sha256:33cd085b772947bd22b7273886539331420404e5d2a4a039945241945ff927b9"


class TestRealPins:
    def test_the_snapshot_is_the_published_one(self) -> None:
        entry = LockFile.read(str(RECIPES / "qwen3.lock.json")).fixed["hf://Qwen/Qwen3-32B@main"]
        assert entry.commit == "9216db5781bf21249d130ec9da846c4624c16137"
        assert (len(entry.files), sum(file.size for file in entry.files.values())) == (27, 65_540_298_478)

    def test_the_plan_and_its_commands_need_no_network(self, cli) -> None:
        steps = [json.loads(line) for line in cli("plan", str(RECIPES / "qwen3.py"), "--json").lines]
        assert [step["stage"] for step in steps] == ["Qwen3-32B", "samples", "weights", "engine", "smoke", "manifest"]
        assert DIGEST in cli("plan", str(RECIPES / "qwen3.py"), "--commands").stdout

    def test_the_checks_accept_it(self, cli) -> None:
        """The card of the build guide does not hold eight requests of 16,384 tokens at once, which is said."""
        result = cli("lint", str(RECIPES / "qwen3.py"), "--json")
        found = [json.loads(line) for line in result.lines]
        said = [(one["severity"], one["code"], one["where"]) for one in found]
        assert (result.exit_code, said) == (0, [("note", "batch-over-cache", "nvfp4_engine: options")])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> StandinImage:
    tools.available()
    return build_image(tmp_path_factory.mktemp("standin"))


class TestToTheEnd:
    def test_both_engines_from_hub_to_manifest(self, cli, tmp_path, image, monkeypatch) -> None:
        for name in ("qwen3.py", "tiny_qwen3/calibration.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(RECIPES / name, tmp_path / name)
        chosen = ("--set", f"image={image.reference}", "--set", "gpu=none")
        with Hub() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            files = {path.name: path.read_bytes() for path in (RECIPES / "tiny_qwen3/model").iterdir()}
            commit = hub.repository("Qwen/Qwen3-32B").commit({**files, "README.md": b"---\nlicense: apache-2.0\n---\n"})
            locked = cli("lock", "qwen3.py", *chosen)
            assert locked.exit_code == 0, locked.stderr
            result = cli("realise", "qwen3.py", *chosen)
            assert result.exit_code == 0, result.stderr
        manifest = json.loads(Path(result.lines[0], "manifest.json").read_text())
        assert manifest["snapshots"] == [{"repository": "Qwen/Qwen3-32B", "commit": commit}]
        assert manifest["containers"] == [image.digest]
        assert manifest["quantisation"]["quant_algo"] == "W4A8_AWQ"
        assert "tokenizer.json" in manifest["tokenizer"]
        assert [answer["end"] for answer in manifest["smoke"]["answers"]] == ["end token", "end token"]
        # The Hub is gone: nothing below is fetched again.
        blackwell = cli("realise", "qwen3.py#nvfp4_manifest", *chosen)
        assert blackwell.exit_code == 0, blackwell.stderr
        quantised = json.loads(Path(blackwell.lines[0], "manifest.json").read_text())["quantisation"]
        assert (quantised["quant_algo"], quantised["kv_cache_quant_algo"]) == ("NVFP4", "FP8")
        steps = [
            json.loads(line) for line in cli("plan", "qwen3.py", *chosen, "--set", "max_batch_size=8", "--json").lines
        ]
        assert [step["stage"] for step in steps if step["action"] == "build"] == ["engine", "smoke", "manifest"]
        assert os.path.isdir(result.lines[0])
