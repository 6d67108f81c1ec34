"""Adapters, data sets and a runner of programs in the locked environment, for the tests of models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architecture
import checkpoints
import numpy as np
import pytest
import quantised_checkpoint
from by_hand import LLM, Ran, _run, environment_of
from quantised_checkpoint import FORMATS, Asked

from hermetic.fetch.indexes import find_indexes

TINY = checkpoints.TINY
TEXTS = [part.strip() for part in (TINY.parent / "calibration.txt").read_text().split("\n\n") if part.strip()]
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
MERGE: dict[str, Any] = {
    "base_name": "",
    "dtype": "bfloat16",
    "positions": 32,
    "prompts": 2,
    "stored_tolerance": "0.05",
    "tolerance": "0.0001",
}
QUANTISE: dict[str, Any] = {
    "batch": 1,
    "device": "cpu",
    "dtype": "bfloat16",
    "export": "hf",
    "format": "fp8",
    "kv_cache": "none",
    "largest_difference": "1.0",
    "pp": 1,
    "tp": 1,
}
CALIBRATION: dict[str, Any] = {"column": "text", "count": 4, "max_length": 48, "seed": 1, "split": ""}

ByProgram = Callable[..., Ran]


def torch_is_offered() -> bool:
    """Whether the configured indexes have the CPU build of torch that the lock names."""
    lock = LLM / "locks" / "models-cpu.txt"
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps", "--quiet", "--python"]
    command += [sys.executable, "--index-strategy", "unsafe-best-match", *find_indexes({}, os.environ).arguments]
    pinned = next(line.split()[0] for line in lock.read_text().splitlines() if line.startswith("torch=="))
    return subprocess.run([*command, pinned], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def models_python() -> Path:
    """An interpreter with exactly the wheels of ``models-cpu.txt``."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("needs CPython 3.11, which models-cpu.txt is for")
    if not torch_is_offered():
        pytest.skip("needs an index or folder that offers the CPU build of torch (UV_INDEX, PIP_FIND_LINKS)")
    return environment_of("models-cpu.txt")


@pytest.fixture
def by_program(models_python: Path, tmp_path: Path) -> ByProgram:
    """``by_program("lora_merge.py", "merged", {...parameters}, base=path, adapter=path)``."""

    def run(program: str, name: str, parameters: dict[str, Any], *, check: bool = True, **inputs: Path) -> Ran:
        out = tmp_path / name
        for folder in (out, tmp_path / "home", tmp_path / "tmp"):
            folder.mkdir(exist_ok=True)
        stage = tmp_path / f"{name}.json"
        places = {role.replace("__", "."): str(path) for role, path in inputs.items()}
        stage.write_text(json.dumps({"name": name, "parameters": parameters, "inputs": places, "out": str(out)}))
        command = [str(models_python), "-P", "-B", str(LLM / "programs" / program), str(stage)]
        variables = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin"}
        variables["OMP_NUM_THREADS"] = (
            "1"  # on a loaded machine several threads spend their time waiting for each other
        )
        ran = _run(command, variables, tmp_path / "tmp", out)
        assert not any((tmp_path / "home").iterdir()), "the program wrote to its home"
        assert ran.code == 0 or not check, ran.stderr
        return ran

    return run


def settings_of(model: Path) -> dict[str, Any]:
    return json.loads((model / "config.json").read_text())


def write_adapter(
    folder: Path,
    model: Path,
    *,
    rank: int = 4,
    alpha: int = 8,
    seed: int = 3,
    modules: tuple[str, ...] = MODULES,
    rslora: bool = False,
    dora: bool = False,
    **config: Any,
) -> Path:
    """A random LoRA adapter for `model`, as peft saves one."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    settings = settings_of(model)
    shapes = checkpoints.shapes(settings)
    tensors = {}
    for layer in range(settings["num_hidden_layers"]):
        for module in modules:
            rows, width = shapes[f"model.layers.{layer}.{module}.weight"]
            name = f"base_model.model.model.layers.{layer}.{module}"
            values = {"lora_A.weight": (rank, width), "lora_B.weight": (rows, rank)}
            if dora:
                values["lora_magnitude_vector"] = (rows,)
            for part, shape in values.items():
                drawn = np.abs(rng.standard_normal(shape, dtype=np.float32)) if part.endswith("vector") else None
                drawn = (
                    rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05) if drawn is None else drawn + 0.5
                )
                tensors[f"{name}.{part}"] = ("F32", shape, checkpoints.stored(drawn, "F32"))
    checkpoints.write_safetensors(folder / "adapter_model.safetensors", tensors)
    known = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(module.rpartition(".")[2] for module in modules),
        "use_rslora": rslora,
        "use_dora": dora,
        "bias": "none",
        "base_model_name_or_path": "acme/tiny-qwen3",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(known | config))
    return folder


def write_dataset(path: Path, texts: list[str] = TEXTS, **more: Any) -> Path:
    """JSON lines with a column ``text``, and the same `more` in every row."""
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path


def in_place(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_quantised(folder: Path, name: str, kv_cache: str = "fp8", **wrong: tuple[str, tuple[int, ...]]) -> Path:
    """A checkpoint as the export ``hf`` of the tiny model in the format `name`, with what is `wrong` in its place."""
    found = architecture.parse_config(settings_of(TINY))
    asked = Asked(name, kv_cache, "hf")
    tensors = dict(quantised_checkpoint._wanted(asked, found))
    tensors |= {
        key: ("BF16", shape) for key, shape in checkpoints.shapes(settings_of(TINY)).items() if key not in tensors
    }
    tensors |= {key.replace("__", "."): value for key, value in wrong.items()}
    folder.mkdir(parents=True)
    one = np.float32(1).tobytes()
    sizes = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F32": 4}
    data = {
        key: (dtype, shape, one * int(np.prod(shape)) if dtype == "F32" else bytes(int(np.prod(shape)) * sizes[dtype]))
        for key, (dtype, shape) in tensors.items()
    }
    checkpoints.write_safetensors(folder / "model.safetensors", data)
    said = {"quant_algo": FORMATS[name].algorithm, "kv_cache_quant_algo": "FP8" if kv_cache == "fp8" else None}
    if FORMATS[name].group:
        said["group_size"] = FORMATS[name].group
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": said}))
    return folder
