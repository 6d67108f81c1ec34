"""`convert` in the sandbox, with the script of the STAND-IN image."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import pytest
from models_kit import write_dataset

from hermetic.testing.trtllm.image import StandinImage, build_image

RECIPE = """
from hermetic import Image, Source
from hermetic.llm.convert import convert
from hermetic.llm.quantise import calibration

image = Image({reference!r})
plain = convert(Source("model"), environment=image, release="1.2.1", tp=2, pp=1, dtype="bfloat16")
narrow = convert(Source("model"), environment=image, release="1.2.1", dtype="float16", weight_only="int4")
samples = calibration(Source("data.jsonl"), count=4, column="text", max_length=48, seed=1)
smooth = convert(
    Source("model"), environment=image, release="1.2.1", quantization_type="smooth_quant", calibration=samples
)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> StandinImage:
    return build_image(tmp_path_factory.mktemp("image"))


def test_checkpoints_of_the_image_s_own_script(image: StandinImage, cli, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", checkpoints.config(), shards=2)
    write_dataset(tmp_path / "data.jsonl")
    (tmp_path / "recipe.py").write_text(RECIPE.format(reference=image.reference))
    locked = cli("lock", "recipe.py")
    assert locked.exit_code == 0, locked.stderr
    found = {}
    for name in ("plain", "narrow", "smooth"):
        made = cli("realise", f"recipe.py#{name}", "--no-link")
        assert made.exit_code == 0, made.stderr
        found[name] = json.loads(Path(made.lines[0], "config.json").read_text())
        assert Path(made.lines[0], "rank0.safetensors").is_file()
    assert found["plain"]["mapping"]["world_size"] == 2
    assert found["narrow"]["quantization"]["quant_algo"] == "W4A16"
    assert found["smooth"]["quantization"]["kv_cache_quant_algo"] == "INT8"
    shown = cli("log", "recipe.py#narrow").stdout
    assert "--dtype float16 --tp_size 1 --pp_size 1 --use_weight_only --weight_only_precision int4" in shown
