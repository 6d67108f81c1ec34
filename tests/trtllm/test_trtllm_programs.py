"""The programs of the engine stages, outside a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

PROGRAMS = Path(__file__).parents[2] / "hermetic" / "llm" / "programs"
MODEL = {
    "architecture": "Qwen3ForCausalLM",
    "dtype": "bfloat16",
    "mapping": {"world_size": 1},
    "quantization": {"quant_algo": "W4A8_AWQ", "kv_cache_quant_algo": "FP8"},
}


class Bench:
    """A folder laid out as a stage finds it, and the program run over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"

    def write(self, role: str, files: dict[str, object]) -> Path:
        place = self.folder / "in" / role
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return place

    def run(self, program: str, parameters: dict[str, Any], path: str = "") -> subprocess.CompletedProcess[str]:
        inputs = {place.name: str(place) for place in (self.folder / "in").iterdir()}
        self.out.mkdir(exist_ok=True)
        description = {"name": "stage", "parameters": parameters, "inputs": inputs, "out": str(self.out)}
        (self.folder / "stage.json").write_text(json.dumps(description))
        command = [sys.executable, "-P", "-B", str(PROGRAMS / program), str(self.folder / "stage.json")]
        environ = {"PATH": path or os.environ["PATH"], "TMPDIR": str(self.folder)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def tool(folder: Path, name: str) -> str:
    """A folder for PATH with a tool that prints its words and what it was told to use."""
    place = folder / "bin"
    place.mkdir()
    script = place / name
    script.write_text(
        '#!/bin/sh\nfor word; do echo "word: $word"; done; echo "single: $TLLM_WORKER_USE_SINGLE_PROCESS"\n'
    )
    script.chmod(0o755)
    return f"{place}:/usr/bin:/bin"


class TestEngine:
    def test_the_command_line_of_trtllm_build(self, bench: Bench) -> None:
        bench.write("checkpoint", {"config.json": MODEL, "rank0.safetensors": b""})
        bench.write("timing_cache", {"timing.cache": b"x"})
        options = {"max_batch_size": 4, "strip_plan": True, "gather_context_logits": False, "lora_dir": ["a", "b"]}
        parameters = {"builder": "trtllm-build", "options": options}
        ended = bench.run("tensorrt_llm_engine.py", parameters, tool(bench.folder, "trtllm-build"))
        assert ended.returncode == 0, ended.stderr
        words = [line.removeprefix("word: ") for line in ended.stdout.splitlines() if line.startswith("word: ")]
        assert words == [
            *("--checkpoint_dir", str(bench.folder / "in/checkpoint"), "--output_dir", str(bench.out)),
            *("--log_level", "info", "--output_timing_cache", str(bench.out / "timing.cache")),
            *("--input_timing_cache", str(bench.folder / "in/timing_cache/timing.cache")),
            *("--lora_dir", "a", "b", "--max_batch_size", "4", "--strip_plan"),
        ]
        assert "single: 1" in ended.stdout

    @pytest.mark.parametrize("several", [False, True])
    def test_adapters_are_found_at_the_top_or_in_folders(self, bench: Bench, several: bool) -> None:
        bench.write("checkpoint", {"config.json": MODEL, "rank0.safetensors": b""})
        files: dict[str, object] = {"adapter_config.json": {}, "adapter_model.safetensors": b""}
        roles = ("adapters/de", "adapters/fr") if several else ("adapters",)
        wanted = [str(bench.write(role, files)) for role in roles]
        parameters = {"builder": "trtllm-build", "options": {}}
        ended = bench.run("tensorrt_llm_engine.py", parameters, tool(bench.folder, "trtllm-build"))
        words = [line.removeprefix("word: ") for line in ended.stdout.splitlines() if line.startswith("word: ")]
        assert words[-len(wanted) - 1 :] == ["--lora_dir", *wanted], ended.stderr

    def test_what_is_no_adapter(self, bench: Bench) -> None:
        bench.write("checkpoint", {"config.json": MODEL, "rank0.safetensors": b""})
        place = bench.write("adapters", {"adapter_config.json": {}})
        parameters = {"builder": "trtllm-build", "options": {}}
        assert "no adapter_model.safetensors" in bench.run("tensorrt_llm_engine.py", parameters).stderr
        (place / "adapter_config.json").unlink()
        assert "has no adapter_config.json" in bench.run("tensorrt_llm_engine.py", parameters).stderr

    def test_a_rank_that_is_larger_than_its_gpu(self, bench: Bench) -> None:
        place = bench.write("checkpoint", {"config.json": MODEL})
        with (place / "rank0.safetensors").open("wb") as stream:
            stream.truncate(3 << 30)  # a hole
        parameters = {"builder": "trtllm-build", "options": {}, "device_gib": 4}
        refused = bench.run("tensorrt_llm_engine.py", parameters, tool(bench.folder, "trtllm-build"))
        assert "3.0 GiB of weights do not fit into a GPU of 4 GiB" in refused.stderr
        path = f"{bench.folder / 'bin'}:/usr/bin:/bin"
        assert "25% of the GPU" not in bench.run("tensorrt_llm_engine.py", parameters | {"device_gib": 80}, path).stdout
        warned = bench.run("tensorrt_llm_engine.py", parameters | {"device_gib": 5}, path)
        assert (warned.returncode, "warning: 20% of the GPU" in warned.stdout) == (0, True)

    def test_the_command_line_of_trtllm_bench(self, bench: Bench) -> None:
        bench.write("checkpoint", {"config.json": {}})
        options = {"quantization": "NVFP4", "trust_remote_code": "True"}
        parameters = {"builder": "trtllm-bench", "model": "nvidia/Qwen3-32B-NVFP4", "options": options}
        ended = bench.run("tensorrt_llm_engine.py", parameters, tool(bench.folder, "trtllm-bench"))
        words = [line.removeprefix("word: ") for line in ended.stdout.splitlines() if line.startswith("word: ")]
        assert words[:4] == ["--model", "nvidia/Qwen3-32B-NVFP4", "--model_path", str(bench.folder / "in/checkpoint")]
        assert words[-5:] == ["build", "--quantization", "NVFP4", "--trust_remote_code", "True"]

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"config.json": {"architectures": ["Qwen3ForCausalLM"]}}, "convert or quantise it first"),
            (
                {"config.json": MODEL | {"mapping": {"world_size": 2}}, "rank0.safetensors": b""},
                "lacks rank1.safetensors",
            ),
            ({}, "config.json is missing"),
        ],
    )
    def test_a_checkpoint_that_is_none_is_refused_before_the_tool_starts(self, bench: Bench, files, said) -> None:
        bench.write("checkpoint", files)
        ended = bench.run("tensorrt_llm_engine.py", {"builder": "trtllm-build", "options": {}})
        assert ended.returncode == 1
        assert said in ended.stderr

    def test_an_environment_without_the_tool_says_so(self, bench: Bench) -> None:
        bench.write("checkpoint", {"config.json": MODEL, "rank0.safetensors": b""})
        ended = bench.run("tensorrt_llm_engine.py", {"builder": "trtllm-build", "options": {}}, "/nowhere")
        assert "has no trtllm-build" in ended.stderr


PLAN = b"ftrt" + bytes(20) + bytes([10, 14, 1])


class TestManifest:
    PARAMETERS: ClassVar[dict[str, Any]] = {
        "builder": "trtllm-build",
        "release": "1.2.1",
        "requested": {
            "max_batch_size": 4,
            "use_paged_context_fmha": "enable",
            "reduce_fusion": "enable",
            "kv_cache_type": "paged",
        },
        "gpu": {"product": "NVIDIA H200", "memory_gib": 140, "sm": "9.0", "count": 1},
        "containers": ["sha256:" + "0" * 64],
        "snapshots": [{"repository": "Qwen/Qwen3-32B", "commit": "0" * 40}],
    }

    def config(self, **fields: object) -> dict[str, object]:
        plugins = {"use_paged_context_fmha": True, "reduce_fusion": False, "gemm_plugin": None}
        made = {"max_batch_size": 4, "kv_cache_type": "PAGED", "share": 0.5, "plugin_config": plugins}
        return {"version": "1.2.1", "pretrained_config": MODEL, "build_config": made, **fields}

    def test_what_the_builder_changed_is_listed_and_nothing_else(self, bench: Bench) -> None:
        bench.write("engine", {"config.json": self.config(), "rank0.engine": PLAN, "tokenizer.json": b"{}"})
        bench.write("calibration", {"samples.jsonl": b"{}"})
        ended = bench.run("tensorrt_llm_manifest.py", self.PARAMETERS)
        assert ended.returncode == 0, ended.stderr
        manifest = json.loads((bench.out / "manifest.json").read_bytes())
        assert manifest["build"]["different"] == [
            {"option": "reduce_fusion", "requested": "enable", "effective": False}
        ]
        assert manifest["quantisation"] == MODEL["quantization"]
        assert manifest["platform"]["gpu"] == self.PARAMETERS["gpu"]
        assert manifest["tools"]["tensorrt"] == "10.14.1"
        assert set(manifest["files"]) == {"config.json", "rank0.engine", "tokenizer.json"}
        assert set(manifest["files"]["rank0.engine"]) == {"blake3", "sha256", "size"}
        assert set(manifest["tokenizer"]) == {"tokenizer.json"}
        assert set(manifest["inputs"]) == {"calibration"}
        assert manifest["build"]["effective"]["share"] == "0.5"
        again = bench.run("tensorrt_llm_manifest.py", self.PARAMETERS)
        assert again.returncode == 0
        assert json.loads((bench.out / "manifest.json").read_bytes()) == manifest

    @pytest.mark.parametrize(
        ("config", "said"),
        [({"version": "1.1.0"}, "was built by 1.1.0"), ({"build_config": []}, "not that of an engine")],
    )
    def test_an_engine_of_something_else_is_refused(self, bench: Bench, config, said: str) -> None:
        bench.write("engine", {"config.json": self.config(**config), "rank0.engine": b"ftrt"})
        ended = bench.run("tensorrt_llm_manifest.py", self.PARAMETERS)
        assert ended.returncode == 1
        assert said in ended.stderr
