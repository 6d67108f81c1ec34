"""How alike two engines are, by the comparator; the engines and what reads them are the stand-in's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermetic.sandbox import tools
from hermetic.testing.trtllm.image import build_image, runtime_packages

PROGRAM = Path(__file__).parents[2] / "hermetic" / "llm" / "programs" / "trtllm_grade.py"
PLAN = b"ftrt" + bytes(20) + bytes([10, 14, 1]) + bytes(range(200))

Grade = Callable[..., dict[str, Any]]


@pytest.fixture
def grade(tmp_path: Path) -> Grade:
    for name, content in runtime_packages().items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_bytes(content)

    def of(second: bytes, verbosity: str = "layer_names_only", **changes: object) -> dict[str, Any]:
        for role, plan, more in (("first", PLAN, {}), ("second", second, changes)):
            (tmp_path / role).mkdir()
            made = {"profiling_verbosity": verbosity, "output_timing_cache": role, "max_seq_len": 64} | more
            config = {"version": "1.2.1", "pretrained_config": {"vocab_size": 512}, "build_config": made}
            (tmp_path / role / "config.json").write_text(json.dumps(config))
            (tmp_path / role / "rank0.engine").write_bytes(plan)
        inputs = {role: str(tmp_path / role) for role in ("first", "second")}
        stage = {"name": "engine", "parameters": {}, "inputs": inputs, "out": str(tmp_path / "out")}
        (tmp_path / "stage.json").write_text(json.dumps(stage))
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "site")}
        subprocess.run(
            [sys.executable, "-P", "-B", str(PROGRAM), str(tmp_path / "stage.json")], check=True, env=environ
        )
        found: dict[str, Any] = json.loads((tmp_path / "out" / "grade.json").read_bytes())
        return found

    return of


def changed(place: int) -> bytes:
    return PLAN[:place] + b"\xff" + PLAN[place + 1 :]


def test_the_same_layers_and_tactics(grade: Grade) -> None:
    found = grade(changed(220), "detailed")
    assert (found["grade"], found["evidence"]["layers"]) == ("structural", "equal, tactics included")


def test_other_layers_and_the_same_answers(grade: Grade) -> None:
    """The stand-in's layers are the first quarter of a plan, its answers follow from the first half."""
    found = grade(changed(220))
    assert (found["grade"], found["evidence"]["equal"]) == ("numeric", found["evidence"]["answers"])


def test_other_tactics_and_other_answers(grade: Grade) -> None:
    found = grade(changed(40), "detailed")
    assert (found["grade"], found["evidence"]["layers"]) == ("different", "different")


@pytest.mark.parametrize(
    ("second", "changes", "unlike"),
    [
        (PLAN, {"max_seq_len": 128}, "build_config.max_seq_len"),
        (changed(25), {}, "rank0.engine: its header"),
    ],
)
def test_what_can_not_be_alike(grade: Grade, second: bytes, changes: dict[str, int], unlike: str) -> None:
    found = grade(second, **changes)
    assert (found["grade"], found["evidence"]["unlike"]) == ("different", [unlike])


@pytest.mark.slow
def test_two_builds_that_differ_in_noise(tmp_path: Path, cli) -> None:
    tools.available()
    image = build_image(tmp_path / "image", variables={"STANDIN_PAUSE": "0", "STANDIN_NOISE": "tail"})
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"architecture": "Qwen3ForCausalLM", "dtype": "bfloat16"}')
    (tmp_path / "checkpoint" / "rank0.safetensors").write_bytes(bytes(1000))
    (tmp_path / "recipe.py").write_text(
        "from hermetic import Image, Source\nfrom hermetic.llm import tensorrt_llm\n"
        f"engine = tensorrt_llm.Engine(environment=Image({image.reference!r}), release='1.2.1',\n"
        "    checkpoint=Source('checkpoint'), options={'profiling_verbosity': 'detailed'})\n"
    )
    assert cli("lock", "recipe.py").exit_code == 0
    result = cli("realise", "--check", "recipe.py#engine")
    assert (result.exit_code, result.lines) == (0, ["structural"]), result.stderr
