"""The stage classes and the locks: what a recipe's author meets."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from by_hand import LLM

from hermetic.errors import Domain, HermeticError
from hermetic.llm import openvino
from hermetic.recipe import Source, Stage

STAGES = [openvino.Checkpoint, openvino.Quantise, openvino.Engine, openvino.Manifest, openvino.Smoke]
TEXT = Source(__file__)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_brings_every_program_that_it_imports(stage: type[Stage]) -> None:
    for programs in filter(None, (stage.programs, stage.runner)):
        reached, pending = set[str](), [programs[0]]
        while pending:
            name = pending.pop()
            reached.add(name)
            pending += [found for found in _imports(LLM / "programs" / name) if found not in reached]
        assert set(programs) == reached


def _imports(path: Path) -> set[str]:
    """The program files that the one at `path` imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    assert not any(name.split(".")[0] == "hermetic" for name in found), "programs stand alone"
    return {f"{name}.py" for name in found if (path.parent / f"{name}.py").exists()}


@pytest.mark.parametrize(
    "fields",
    [
        {"awq": True},
        {"gptq": True},
        {"mode": "int8_asym", "scale_estimation": True, "calibration": TEXT},
        {"calibration": TEXT},
        {"mode": "int3"},
        {"group_size": 100},
        {"ratio": "0"},
        {"ratio": "1.5"},
        {"samples": 0},
    ],
)
def test_quantise_refuses_what_makes_no_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(HermeticError) as caught:
        openvino.Quantise(weights=TEXT, **fields)
    assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "stage-invalid")


def test_what_is_not_given_does_not_reach_the_program() -> None:
    parameters = openvino.Quantise(weights=TEXT).parameters_in_full()
    assert set(parameters) == {
        "mode",
        "group_size",
        "ratio",
        "awq",
        "scale_estimation",
        "gptq",
        "samples",
        "length",
    }
    assert "manifest" not in openvino.Smoke(weights=TEXT, engine=TEXT).parameters_in_full()


def test_smoke_is_a_required_check() -> None:
    assert openvino.Smoke(weights=TEXT, engine=TEXT).check


@pytest.mark.parametrize("name", ["openvino-build", "openvino-run"])
def test_locks(name: str) -> None:
    """Exact versions with hashes, no address, and nothing that calls home."""
    text = (LLM / "locks" / f"{name}.txt").read_text()
    lines = text.replace("\\\n", " ").splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+( +--hash=sha256:[0-9a-f]{64})+ *", line) for line in lines)
    names = {line.split("==")[0] for line in lines}
    assert not names & {"openvino-telemetry", "torch", "transformers", "huggingface-hub"}
    wanted = (LLM / "locks" / f"{name}.in").read_text().splitlines()
    assert {re.split("[=<>]", line)[0] for line in wanted if line and not line.startswith("#")} <= names
