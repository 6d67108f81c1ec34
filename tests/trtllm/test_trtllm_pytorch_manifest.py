"""The manifest of a checkpoint with `model.yaml`: its shape is that of an engine's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hermetic.llm.pytorch import Manifest, PyTorchModel
from hermetic.recipe import Gpu, Image, Source

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "hermetic" / "llm" / "programs" / "trtllm_pytorch_manifest.py"
TINY = ROOT / "recipes" / "tiny_qwen3" / "model"


class TestProgram:
    ASKED: ClassVar[dict[str, Any]] = {
        "gpu": {},
        "release": "1.2.1",
        "ranks": 2,
        "requested": {"max_batch_size": 8, "kv_cache_config": {"free_gpu_memory_fraction": "0.85"}},
        "containers": ["sha256:" + "0" * 64],
        "snapshots": [{"repository": "acme/tiny", "commit": "0" * 40}],
    }

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(TINY, folder / "checkpoint")
        lines = ("kv_cache_config:", "  free_gpu_memory_fraction: 0.85", "max_batch_size: 4", 'model: "checkpoint"')
        (folder / "model.yaml").write_text("".join(f"{line}\n" for line in lines))
        return folder

    def manifest(self, model: Path, **inputs: Path) -> dict[str, Any]:
        done = self.build(model, **inputs)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads((model.parent / "out" / "manifest.json").read_text())
        return found

    def build(self, model: Path, **inputs: Path) -> subprocess.CompletedProcess[str]:
        places = {role: str(place) for role, place in {"engine": model, **inputs}.items()}
        out, said = model.parent / "out", model.parent / "stage.json"
        said.write_text(json.dumps({"name": "stage", "parameters": self.ASKED, "inputs": places, "out": str(out)}))
        command = [sys.executable, "-P", "-B", str(PROGRAM), str(said)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_what_it_says(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "smoke").mkdir()
        (tmp_path / "smoke" / "report.json").write_text('{"answers": []}')
        found = self.manifest(model, smoke=tmp_path / "smoke")
        assert (found["kind"], found["ranks"], found["quantisation"]) == ("tensorrt-llm-pytorch", 2, {})
        assert found["model"]["architecture"] == "Qwen3ForCausalLM"
        assert found["build"]["effective"]["kv_cache_config"] == {"free_gpu_memory_fraction": "0.85"}
        assert found["build"]["different"] == [{"option": "max_batch_size", "requested": 8, "effective": 4}]
        assert "checkpoint/tokenizer.json" in found["tokenizer"]
        assert {"model.yaml", "checkpoint/config.json"} < set(found["files"])
        assert found["smoke"] == {"answers": []}

    def test_the_quantisation_is_that_of_modelopt_s_file(self, model: Path) -> None:
        said = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
        (model / "checkpoint" / "hf_quant_config.json").write_text(json.dumps(said))
        assert self.manifest(model)["quantisation"] == {"kv_cache_quant_algo": "FP8", "quant_algo": "FP8"}

    def test_the_same_twice(self, model: Path) -> None:
        assert self.manifest(model) == self.manifest(model)

    def test_another_folder(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        done = self.build(tmp_path / "other")
        assert done.returncode != 0
        assert "no model.yaml" in done.stdout + done.stderr


def test_the_image_that_it_runs_in_is_listed() -> None:
    image = Image(f"example.com/trtllm:1@sha256:{'1' * 64}")
    image = image.model_copy(update={"digest": f"sha256:{'1' * 64}"})
    gpu = Gpu("NVIDIA H200", count=2)
    model = PyTorchModel(checkpoint=Source(__file__), release="1.2.1", tp=2, runtime=image, runtime_gpu=gpu)
    said = Manifest(engine=model).parameters_in_full()
    assert (said["containers"], said["gpu"], said["ranks"]) == ([f"sha256:{'1' * 64}"], gpu.identity(), 2)
