"""Recipes that run the stand-in for TensorRT-LLM in the real sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hermetic.sandbox import tools
from hermetic.testing.trtllm.tables import options_json

STANDIN = Path(__file__).parents[2] / "hermetic" / "testing" / "trtllm"
BUILD = """\
import json, os, sys
stage = json.load(open("/build/stage.json"))["parameters"]
os.environ.update(stage["environ"])
os.execv(sys.executable, [sys.executable, "/build/program/standin.py", *stage["command"]])
"""
RECIPE = """\
from hermetic import TOKENIZER, Harvest, KnownSizes, LogLine, PythonEnv, Script, Source, Validator
engine = Script(
    "build.py",
    modules=(Source({standin!r} + "/standin.py"), Source("options.json")),
    environment=PythonEnv("empty.lock"),
    inputs={{"checkpoint": Source("checkpoint")}},
    parameters={{"command": {command!r}, "environ": {environ!r}}},
    {fields}
    harvest=Harvest(**{{
        "artifacts": ("config.json", "rank*.engine"),
        "complete": LogLine("Engine serialized"),
        "settle": "0.4",
        {harvest}
    }}),
)
"""
OUT = ["trtllm-build", "--checkpoint_dir", "/build/in/checkpoint", "--output_dir", "/build/out"]


@pytest.fixture(scope="session", autouse=True)
def _bubblewrap() -> None:
    tools.available()


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe whose stage runs the stand-in: ``recipe("hang", ranks=2, harvest='"timeout": 3')``."""

    def write(
        behaviour: str,
        *,
        ranks: int = 1,
        command: list[str] | None = None,
        harvest: str = "",
        fields: str = "",
        **env: str,
    ) -> str:
        environ = {"STANDIN_BEHAVIOUR": behaviour, "STANDIN_BYTES": "300000", "STANDIN_PAUSE": "0.05"}
        environ["STANDIN_MARK"] = str(tmp_path)
        environ |= {f"STANDIN_{name.upper()}": value for name, value in env.items()}
        (tmp_path / "build.py").write_text(BUILD)
        (tmp_path / "options.json").write_text(options_json())
        (tmp_path / "empty.lock").touch()
        checkpoint(tmp_path / "checkpoint", ranks)
        (tmp_path / "recipe.py").write_text(
            RECIPE.format(standin=str(STANDIN), command=command or OUT, environ=environ, harvest=harvest, fields=fields)
        )
        return "recipe.py"

    return write


def checkpoint(folder: Path, ranks: int) -> None:
    folder.mkdir(exist_ok=True)
    model = {
        "architecture": "Qwen3ForCausalLM",
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
        "quantization": {"quant_algo": "W4A8_AWQ"},
    }
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "rank0.safetensors").write_bytes(bytes(400_000))
