"""The stand-in takes the real tool's options and no others, and says what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import STANDIN, checkpoint

from hermetic.testing.trtllm.tables import options_json


@pytest.fixture
def standin(tmp_path: Path):
    checkpoint(tmp_path / "model", 2)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("standin.py", "conversion.py"):
        shutil.copy(STANDIN / name, tools)
    (tools / "options.json").write_text(options_json())

    def run(*words: str) -> subprocess.CompletedProcess:
        environ = {"STANDIN_STUBBORN": "0", "STANDIN_PAUSE": "0", "STANDIN_BYTES": "1000", "PATH": os.environ["PATH"]}
        module = "standin" if words[0].startswith("trtllm") else "conversion"
        code = (
            f"import sys; sys.path.insert(0, {str(tools)!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    return run


def test_it_says_what_it_is_and_prints_the_real_lines(standin, tmp_path) -> None:
    done = standin("trtllm-build", "--checkpoint_dir", "model", "--output_dir", "out", "--max_batch", "4")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert "STAND-IN" in first
    assert sum("Engine serialized. Total time: " in line for line in rest) == 2
    assert "[TRT-LLM] [I] Total time of building all engines: " in rest[-1]
    config = json.loads((tmp_path / "out/config.json").read_bytes())
    assert config["build_config"]["max_batch_size"] == 4
    assert (tmp_path / "out/rank1.engine").read_bytes()[:4] == b"ftrt"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--checkpoint-dir", "model"],
        ["--kv_cache_precision", "fp8"],
        ["--max_input_tokens", "4096"],
        ["--max_output_tokens", "1024"],
        ["--kv_cache_type", "some"],
        ["--gpt_attention_plugin", "float8"],
        ["--enable_xqa", "enable"],
    ],
)
def test_other_options_are_refused_with_status_2(standin, wrong) -> None:
    done = standin("trtllm-build", "--checkpoint_dir", "model", *wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr


def test_the_corrected_example_line_is_taken(standin) -> None:
    words = "--kv_cache_type paged --use_paged_context_fmha enable --tokens_per_block 32 --max_batch_size 4"
    words += " --max_input_len 4096 --max_seq_len 5120"
    done = standin("trtllm-build", "--checkpoint_dir", "model", "--output_dir", "out", *words.split())
    assert done.returncode == 0, done.stderr


def test_the_bench(standin, tmp_path) -> None:
    words = "--model m --model_path model --workspace ws build --quantization NVFP4 --max_seq_len 9 -tp 2"
    assert standin("trtllm-bench", *words.split()).returncode == 0
    assert sorted(os.listdir(tmp_path / "ws")) == ["m"]
    assert len(os.listdir(tmp_path / "ws/m/tp_2_pp_1")) == 4
    assert standin("trtllm-bench", *words.split(), "--kv_cache_dtype", "fp8").returncode == 2
    assert standin("trtllm-bench", *words.replace("-tp 2", "-tp 16").split()).returncode == 2


def test_engines_differ_by_rank_and_by_nothing_else(standin, tmp_path) -> None:
    for out in ("one", "two"):
        standin("trtllm-build", "--checkpoint_dir", "model", "--output_dir", out)
    read = {
        (out, rank): (tmp_path / out / f"rank{rank}.engine").read_bytes() for out in ("one", "two") for rank in (0, 1)
    }
    assert read["one", 0] == read["two", 0] != read["one", 1]


class TestBenchGroups:
    """Either a data set, or both limits, or both target lengths."""

    @pytest.mark.parametrize(
        ("words", "status"),
        [
            ("--max_seq_len 9 --max_batch_size 1 --max_num_tokens 2", 0),
            ("--max_seq_len 9 --target_input_len 1 --target_output_len 2", 0),
            ("--max_seq_len 9 --max_batch_size 1", 2),
            ("--max_seq_len 9 --target_output_len 1", 2),
            ("--max_seq_len 9 --dataset d --max_batch_size 1 --max_num_tokens 2", 2),
            ("", 2),
        ],
    )
    def test_one_of_them(self, standin, words: str, status: int) -> None:
        done = standin("trtllm-bench", "-m", "m", "--model_path", "model", "-w", "ws", "build", *words.split())
        assert done.returncode == status, done.stderr


class TestConversion:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        folder = tmp_path / "hf"
        folder.mkdir()
        config = {
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_size": 64,
            "vocab_size": 100,
            "torch_dtype": "bfloat16",
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(bytes(4000))
        return folder

    def test_a_checkpoint_of_two_ranks(self, standin, model, tmp_path) -> None:
        words = "--model_dir hf --output_dir out --tp_size 2 --use_weight_only --weight_only_precision int4"
        done = standin("convert_checkpoint.py", *words.split())
        assert done.returncode == 0, done.stderr
        assert "STAND-IN" in done.stdout
        assert "Total time of converting checkpoints: " in done.stdout
        config = json.loads((tmp_path / "out/config.json").read_bytes())
        assert config["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1, "cp_size": 1}
        assert config["quantization"] == {"quant_algo": "W4A16", "kv_cache_quant_algo": None}
        assert (config["architecture"], config["dtype"]) == ("Qwen3ForCausalLM", "bfloat16")
        for rank in range(2):
            data = (tmp_path / f"out/rank{rank}.safetensors").read_bytes()
            length = int.from_bytes(data[:8], "little")
            (tensor,) = json.loads(data[8 : 8 + length]).values()
            assert tensor["shape"] == [500]
            assert len(data) == 8 + length + 500
        assert standin("trtllm-build", "--checkpoint_dir", "out", "--output_dir", "engine").returncode == 0
        assert sorted(os.listdir(tmp_path / "engine")) == ["config.json", "rank0.engine", "rank1.engine"]

    @pytest.mark.parametrize(("data", "status"), [("cnn_dailymail", 1), ("here", 0)])
    def test_calibration_needs_a_folder_as_there_is_no_network(self, standin, model, tmp_path, data, status) -> None:
        (tmp_path / "here").mkdir()
        words = f"--model_dir hf --output_dir out --qformat nvfp4 --kv_cache_dtype fp8 --calib_dataset {data}"
        assert standin("quantize.py", *words.split()).returncode == status
        if status == 0:
            config = json.loads((tmp_path / "out/config.json").read_bytes())
            assert config["quantization"] == {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}

    def test_other_options(self, standin, model) -> None:
        assert standin("quantize.py", "--model_dir", "hf", "--qformat", "fp4").returncode == 2
        assert standin("convert_checkpoint.py", "--model-dir", "hf").returncode == 2


def test_an_older_version_takes_what_it_had() -> None:
    def spellings(version: str) -> set[str]:
        return {name for row in json.loads(options_json(version))["trtllm-build"] for name in row["names"]}

    assert "--enable_xqa" in spellings("0.13.0")
    assert "--enable_xqa" not in spellings("1.2.1")
    assert "--kv_cache_type" not in spellings("0.12.0")
    assert "convert_checkpoint.py" not in json.loads(options_json("0.16.0"))
