"""Merging and quantising with the real libraries, in the environment that the lock describes."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import architecture
import calibration_set
import checkpoints
import numpy as np
import pytest
import quantised_checkpoint
import reference_forward
import safetensors_file
from by_hand import LLM, digest, environment_of
from models_kit import CALIBRATION, MERGE, QUANTISE, TINY, ByProgram, settings_of, write_adapter, write_dataset
from quantised_checkpoint import FORMATS, Asked
from stage_file import StageFile

pytestmark = pytest.mark.slow

EVERYTHING = list(itertools.product(FORMATS, ("none", "fp8"), ("hf", "tensorrt_llm")))
TOKENS = [3, 141, 59, 265, 358, 979, 323, 846, 264, 338]


def logits_of(folder: Path, changes: dict[str, np.ndarray[Any, Any]] | None = None) -> np.ndarray[Any, Any]:
    """NumPy's logits of the checkpoint in `folder`, with `changes` added to its matrices."""
    tensors = safetensors_file.read_checkpoint(folder)
    found = architecture.parse_config(settings_of(folder))

    def weights(name: str) -> np.ndarray[Any, Any]:
        value = tensors[name].float32()
        return value + changes[name] if changes and name in changes else value

    return reference_forward.logits(found, weights, TOKENS)


def changes_of(adapter: Path, scale: float) -> dict[str, np.ndarray[Any, Any]]:
    """What a LoRA adapter adds to each matrix, from its definition: scale x B x A."""
    tensors = safetensors_file.read_header(adapter / "adapter_model.safetensors")
    names = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    return {
        f"{name.removeprefix('base_model.model.')}.weight": np.float32(scale)
        * (tensors[f"{name}.lora_B.weight"].float32() @ tensors[f"{name}.lora_A.weight"].float32())
        for name in names
    }


@pytest.mark.parametrize(("rslora", "scale"), [(False, 2.0), (True, 4.0)])
def test_merged_weights_compute_what_base_and_adapter_do(
    rslora: bool, scale: float, by_program: ByProgram, tmp_path: Path
) -> None:
    """Held against NumPy, which knows nothing of peft: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    adapter = write_adapter(tmp_path / "adapter", TINY, rank=4, alpha=8, rslora=rslora)
    merged = by_program("lora_merge.py", "merged", MERGE | {"dtype": "float32"}, base=TINY, adapter=adapter).out
    expected = logits_of(TINY, changes_of(adapter, scale))
    assert reference_forward.difference(logits_of(merged), expected) < 1e-4
    assert reference_forward.difference(logits_of(TINY), expected) > 0.01
    record = json.loads((merged / "merge.json").read_text())
    assert (record["adapter"]["rank"], record["adapter"]["alpha"], record["dtype"]) == (4, "8", "float32")
    assert set(record["base"]["files"]) == {path.name for path in TINY.iterdir()}


def test_dora_is_honoured_and_the_merge_is_the_same_twice(
    by_program: ByProgram, models_python: Path, tmp_path: Path
) -> None:
    """In a sharded base with untied weights; what comes of it loads with plain transformers and says the same."""
    base = checkpoints.write(tmp_path / "base", checkpoints.config(tie_word_embeddings=False), shards=3)
    adapter = write_adapter(tmp_path / "adapter", base, dora=True)
    first, second = (
        by_program("lora_merge.py", name, MERGE, base=base, adapter=adapter).out for name in ("first", "second")
    )
    assert digest(first) == digest(second)
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM as M;"
        "m = M.from_pretrained(sys.argv[1], dtype=torch.float32);"
        f"print(m(torch.tensor([{TOKENS}])).logits[0].argmax(-1).tolist())"
    )
    ran = subprocess.run([models_python, "-c", code, first], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == logits_of(first).argmax(-1).tolist()


def test_a_tolerance_that_rounding_exceeds(by_program: ByProgram, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", TINY)
    strict = MERGE | {"stored_tolerance": "0.000001"}
    ran = by_program("lora_merge.py", "merged", strict, check=False, base=TINY, adapter=adapter)
    assert ran.code == 1
    assert "the stored model is" in ran.stderr.splitlines()[-1]


def test_several_adapters_for_run_time(by_program: ByProgram, tmp_path: Path) -> None:
    inputs = {
        f"adapters__{name}": write_adapter(tmp_path / name, TINY, rank=rank, modules=modules)
        for name, rank, modules in (("fr", 4, ("self_attn.q_proj",)), ("de", 8, ("mlp.up_proj",)))
    }
    out = by_program("lora_adapters.py", "adapters", {}, base=TINY, **inputs).out
    record = json.loads((out / "adapters.json").read_text())
    assert (record["max_lora_rank"], record["target_modules"]) == (8, ["mlp.up_proj", "self_attn.q_proj"])
    assert safetensors_file.read_header(out / "de" / "adapter_model.safetensors")
    dora = write_adapter(tmp_path / "dora", TINY, dora=True)
    ran = by_program("lora_adapters.py", "refused", {}, check=False, base=TINY, adapters__x=dora)
    assert "the adapter x uses DoRA" in ran.stderr


def test_parquet(tmp_path: Path) -> None:
    """As data sets on the Hub are stored, in the environment that reads them."""
    python = environment_of("models-data.txt")
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    code = (
        "import sys, pyarrow as pa; from pyarrow.parquet import write_table;"
        "write_table(pa.table({'article': [f'text {n}' for n in range(9)], 'n': list(range(9))}), sys.argv[1])"
    )
    subprocess.run([python, "-c", code, folder / "data" / "train-00000-of-00001.parquet"], check=True)

    def calibrate(column: str) -> subprocess.CompletedProcess[str]:
        stage = {"name": "c", "parameters": CALIBRATION | {"column": column, "split": "train"}}
        stage |= {"inputs": {"dataset": str(folder)}, "out": str(tmp_path / "out")}
        (tmp_path / "stage.json").write_text(json.dumps(stage))
        program = LLM / "programs" / "calibration_set.py"
        command = [python, "-P", "-B", program, tmp_path / "stage.json"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "has no column 'text': train-00000-of-00001.parquet has article, n" in calibrate("text").stderr
    assert "the column 'n' of the calibration set is no text" in calibrate("n").stderr
    assert calibrate("article").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert all(row["text"] == f"text {row['row']}" for row in rows)


def ranks_of(name: str, export: str) -> int:
    """Two where the tiny model's matrices can be split: groups of 128 can't."""
    return 2 if export == "tensorrt_llm" and FORMATS[name].group != 128 else 1


@pytest.fixture(scope="module")
def quantised(models_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in every format, cache and export, by their names, from one process that loads torch once."""
    top = tmp_path_factory.mktemp("quantised")
    samples = top / "samples"
    data = {"dataset": write_dataset(top / "data.jsonl")}
    calibration_set.build(StageFile("samples", CALIBRATION, data, samples))
    jobs = []
    for name, kv_cache, export in EVERYTHING:
        asked = {"format": name, "kv_cache": kv_cache, "export": export, "tp": ranks_of(name, export)}
        out = top / f"{name}-{kv_cache}-{export}"
        inputs = {"checkpoint": str(TINY), "calibration": str(samples)}
        jobs.append({"name": out.name, "parameters": QUANTISE | asked, "inputs": inputs, "out": str(out)})
    (top / "jobs.json").write_text(json.dumps(jobs))
    command = [models_python, "-P", "-B", Path(__file__).parent / "quantise_all.py", LLM / "programs"]
    variables = {"HOME": str(top), "TMPDIR": str(top), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, top / "jobs.json"], env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"name"')]
    assert said == [{"name": job["name"], "refused": ""} for job in jobs]
    return {job["name"]: Path(job["out"]) for job in jobs}


@pytest.mark.parametrize(("name", "kv_cache", "export"), EVERYTHING)
def test_formats(name: str, kv_cache: str, export: str, quantised: dict[str, Path]) -> None:
    out = quantised[f"{name}-{kv_cache}-{export}"]
    asked = Asked(name, kv_cache, export, tp=ranks_of(name, export))
    held = quantised_checkpoint.read_back(out, asked, architecture.parse_config(settings_of(TINY)))
    record = json.loads((out / "quantisation.json").read_text())
    assert record["calibration"]["samples"] == 4
    assert record["held"].items() >= held.items()
    assert held["ranks"] == ranks_of(name, export)
    assert held["bytes"] < record["original_bytes"]
    assert (out / "tokenizer.json").read_bytes() == (TINY / "tokenizer.json").read_bytes()
    if export == "hf":
        largest = {"fp8": 0.03, "int8_sq": 0.03, "nvfp4": 0.1, "w4a8_awq": 0.16, "int4_awq": 0.16}[name]
        assert 0.001 < float(record["held"]["largest_loss"]) < largest
    if name != "nvfp4":
        assert float(record["moved"]["largest_relative"]) < 0.2
    said = json.loads((out / ("hf_quant_config.json" if export == "hf" else "config.json")).read_text())
    assert said["quantization"]["quant_algo"] == FORMATS[name].algorithm
    assert said["quantization"]["kv_cache_quant_algo"] == ("FP8" if kv_cache == "fp8" else None)
    if export == "tensorrt_llm":
        assert (said["rotary_base"], said["attn_bias"], said["qwen_type"]) == (10000.0, False, "qwen3")


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_families(kind: str, by_program: ByProgram, tmp_path: Path) -> None:
    """What TensorRT-LLM must be told of each, which the exporter leaves to defaults."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
    rope = {"rope_scaling": checkpoints.LLAMA3, "tie_word_embeddings": False} if kind == "llama" else {}
    settings = checkpoints.config(kind, rope_theta=5e5, **sizes, **rope)
    model = checkpoints.write(tmp_path / "model", settings, shards=2)
    samples = by_program("calibration_set.py", "samples", CALIBRATION, dataset=write_dataset(tmp_path / "d.jsonl")).out
    asked = QUANTISE | {"export": "tensorrt_llm", "kv_cache": "fp8", "pp": 2, "largest_difference": "2.0"}
    out = by_program("modelopt_quantise.py", "quantised", asked, checkpoint=model, calibration=samples).out
    config = json.loads((out / "config.json").read_text())
    assert (config["rotary_base"], config["attn_bias"]) == (5e5, kind == "qwen2")
    assert config["rotary_scaling"] == (checkpoints.LLAMA3 if kind == "llama" else None)
    assert config.get("qwen_type") == ("qwen2" if kind == "qwen2" else None)


def test_a_model_that_quantising_would_ruin(by_program: ByProgram, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data.jsonl")
    samples = by_program("calibration_set.py", "samples", CALIBRATION, dataset=data).out
    asked = QUANTISE | {"largest_difference": "0.000001"}
    ran = by_program("modelopt_quantise.py", "q", asked, check=False, checkpoint=TINY, calibration=samples)
    assert "quantising moved a logit by" in ran.stderr.splitlines()[-1]
    assert not list(ran.out.iterdir())
