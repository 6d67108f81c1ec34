"""The record of the real package's verdicts is what that package says: asked again, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from truss_corpus import CORPUS, HERE, RECORD

from hermetic.llm.truss.config import COMPARED_WITH

RECORDER = HERE / "record_verdicts.py"
SCHEMA = """\
import json
from truss.base.truss_config import Accelerator, TrussConfig
print(json.dumps([TrussConfig.model_json_schema(), [item.value for item in Accelerator]]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the real package, of the version that was compared with."""
    uv = [sys.executable, "-m", "uv", "--quiet"]
    place = tmp_path_factory.mktemp("truss") / "venv"
    subprocess.run([*uv, "venv", place], check=True)
    subprocess.run([*uv, "pip", "install", "--python", place / "bin/python", f"truss=={COMPARED_WITH}"], check=True)
    return place / "bin/python"


@pytest.mark.slow
def test_the_real_package_says_what_is_recorded(python: Path) -> None:
    said = subprocess.run([python, "-P", RECORDER, CORPUS], check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == json.loads(RECORD.read_text("utf-8"))


@pytest.mark.slow
def test_the_fields_are_those_of_the_real_package(python: Path) -> None:
    """Every field of its schema is one of ours and the other way round, but for what no config may say."""
    said = subprocess.run([python, "-P", "-c", SCHEMA], check=True, capture_output=True, text=True).stdout
    schema, accelerators = json.loads(said)
    from hermetic.llm.truss.config import Config
    from hermetic.llm.truss.section import EngineBuild, RuntimeV1, RuntimeV2, Speculator, Versions

    definitions = schema["$defs"]
    ours = {
        "TrussTRTLLMBuildConfiguration": EngineBuild,
        "TrussTRTLLMRuntimeConfiguration": RuntimeV1,
        "TRTLLMRuntimeConfigurationV2": RuntimeV2,
        "TrussSpeculatorConfiguration": Speculator,
        "VersionsOverrides": Versions,
    }
    assert set(schema["properties"]) == set(Config.model_fields) | {"trt_llm"}
    for name, kind in ours.items():
        assert set(definitions[name]["properties"]) == set(kind.model_fields), name
    assert set(accelerators) == _names("serving", "AcceleratorName")
    assert set(definitions["TrussTRTLLMQuantizationType"]["enum"]) == _names("section", "Quantisation")
    assert set(definitions["TrussTRTLLMModel"]["enum"]) == _names("section", "BaseModelKind")
    assert set(definitions["CheckpointSource"]["enum"]) == _names("section", "Source")


def _names(module: str, name: str) -> set[str]:
    import importlib

    return {item.value for item in getattr(importlib.import_module(f"hermetic.llm.truss.{module}"), name)}
