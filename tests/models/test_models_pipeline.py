"""From a Hub to both exports, through the real command, sandbox and store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models_kit import TINY, write_adapter, write_dataset

from hermetic.testing.hub import Hub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RECIPE = """
from hermetic import Source, hub_dataset, hub_snapshot
from hermetic.llm.lora import merge_lora
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.quantise import Target, calibration, quantise

base = hub_snapshot("acme/tiny-qwen3")
merged = merge_lora(base, hub_snapshot("acme/tiny-lora", check=False), "bfloat16", base_name="acme/tiny-qwen3")
samples = calibration(hub_dataset("acme/chats"), count=4, column="text", max_length=48, seed=1, split="train")
quantised = quantise(
    merged, "fp8", calibration=samples, kv_cache="fp8", target=Target("tensorrt-llm-pytorch", sm="90")
)
ranks = quantise(
    merged, "fp8", calibration=samples, kv_cache="fp8", export="tensorrt_llm", tp=2, target=Target("tensorrt-llm", "90")
)
model = PyTorchModel(checkpoint=quantised, release="1.2.1", quantisation="FP8", options={"max_batch_size": 8})
"""


def stages(result) -> dict[str, str]:
    """What became of each stage that was worked on: its last event by name."""
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {event["stage"]: event["state"] for event in events if "stage" in event and "state" in event}


def test_from_the_hub_to_both_exports(models_python: Path, cli, tmp_path: Path) -> None:
    files = {path.name: path for path in TINY.iterdir()}
    adapter = write_adapter(tmp_path / "adapter", TINY)
    data = write_dataset(tmp_path / "train.jsonl")
    with Hub() as hub:
        hub.repository("acme/tiny-qwen3", licence="apache-2.0").commit(files)
        hub.repository("acme/tiny-lora", licence="apache-2.0").commit({path.name: path for path in adapter.iterdir()})
        hub.repository("acme/chats", kind="dataset", licence="apache-2.0").commit({"data/train.jsonl": data})
        (tmp_path / "recipe.py").write_text(RECIPE)
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        locked = cli("lock", "recipe.py", env=variables)
        assert locked.exit_code == 0, locked.stderr
        for name in ("model", "ranks"):
            made = cli("realise", f"recipe.py#{name}", "--out-link", name, env=variables)
            assert made.exit_code == 0, made.stderr
    model, ranks = tmp_path / "model", tmp_path / "ranks"
    assert (
        json.loads((model / "checkpoint" / "hf_quant_config.json").read_text())["quantization"]["quant_algo"] == "FP8"
    )
    assert (model / "model.yaml").is_file()
    assert sorted(path.name for path in ranks.glob("rank*")) == ["rank0.safetensors", "rank1.safetensors"]
    assert json.loads((ranks / "config.json").read_text())["mapping"]["world_size"] == 2
    graded = cli("realise", "recipe.py#quantised", "--no-link", "--check", env=variables)
    assert graded.exit_code == 0, graded.stderr
    assert "bit" in graded.stdout + graded.stderr


LOCAL = """
from hermetic import Source
from hermetic.llm.lora import merge_lora
from hermetic.llm.quantise import calibration, quantise

merged = merge_lora(Source({model!r}), Source("adapter"))
samples = calibration(Source("train.jsonl"), count=4, column="text", max_length=48, seed=1)
quantised = quantise(merged, "fp8", calibration=samples)
"""


def test_one_sample_changed_rebuilds_from_quantisation_on(models_python: Path, cli, tmp_path: Path) -> None:
    """And one that was not chosen rebuilds the choice only: its result is the same, so what follows is adopted."""
    write_adapter(tmp_path / "adapter", TINY)
    (tmp_path / "recipe.py").write_text(LOCAL.format(model=str(TINY)))
    texts = [f"Sample number {number} says what it has to say." for number in range(12)]

    def realise() -> dict[str, str]:
        write_dataset(tmp_path / "train.jsonl", texts)
        made = cli("realise", "recipe.py#quantised", "--no-link", "--json")
        assert made.exit_code == 0, made.stderr
        return stages(made)

    built = realise()
    assert {name: built[name] for name in ("merged", "samples", "quantised")} == dict.fromkeys(built, "built")
    path = cli("path", "recipe.py#samples").stdout.strip()
    chosen = [json.loads(line)["row"] for line in (Path(path) / "samples.jsonl").read_text().splitlines()]
    other = next(row for row in range(12) if row not in chosen)
    texts[other] += " Now it says more."
    again = realise()
    assert again.get("merged") != "built"
    assert (again["samples"], again["quantised"]) == ("built", "adopted")
    texts[chosen[0]] += " Now it says more."
    again = realise()
    assert again.get("merged") != "built"
    assert (again["samples"], again["quantised"]) == ("built", "built")
