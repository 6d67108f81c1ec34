"""The stand-in takes the real tool's options and no others, and says what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import STANDIN, checkpoint


@pytest.fixture
def standin(tmp_path: Path):
    checkpoint(tmp_path / "model", 2)

    def run(*words: str) -> subprocess.CompletedProcess:
        environ = {"STANDIN_STUBBORN": "0", "STANDIN_PAUSE": "0", "STANDIN_BYTES": "1000", "PATH": os.environ["PATH"]}
        command = [sys.executable, str(STANDIN / "standin.py"), *words]
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
