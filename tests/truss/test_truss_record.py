"""The record of the real package's verdicts is what that package says: asked again, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from truss_corpus import CORPUS, HERE, RECORD
from truss_matrix import configs

from hermetic.llm.findings import Finding, errors_of
from hermetic.llm.truss.config import COMPARED_WITH
from hermetic.llm.truss.lint import lint

RECORDER = HERE / "record_verdicts.py"
SCHEMA = """\
import json
from truss.base.truss_config import Accelerator, TrussConfig
print(json.dumps([TrussConfig.model_json_schema(), [item.value for item in Accelerator]]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the real package, of the version that was compared with, and with what it stood on."""
    uv = [sys.executable, "-m", "uv", "--quiet"]
    wanted = {"truss": COMPARED_WITH, **json.loads(RECORD.read_text("utf-8"))["beside"]}
    pins = [f"{name}=={version}" for name, version in wanted.items()]
    place = tmp_path_factory.mktemp("truss") / "venv"
    subprocess.run([*uv, "venv", place], check=True)
    subprocess.run([*uv, "pip", "install", "--python", place / "bin/python", *pins], check=True)
    return place / "bin/python"


@pytest.mark.slow
def test_the_real_package_says_what_is_recorded(python: Path) -> None:
    said = subprocess.run([python, "-P", RECORDER, CORPUS], check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == json.loads(RECORD.read_text("utf-8"))


def deliberate(finding: Finding) -> bool:
    """Whether a refusal is one of those in which hermetic is stricter; `STRICTER` in test_truss_corpus.py says why."""
    stricter = ("trt_llm.build.", "resources.accelerator.")
    unknown = finding.code == "unknown-field" and finding.where.startswith(stricter)
    return unknown or finding.code in {"bad-memory", "bad-cpu"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_configs_get_the_same_verdict(python: Path, tmp_path: Path) -> None:
    texts = sorted({yaml.safe_dump(config, sort_keys=False) for config in configs()})
    assert len(texts) > 14_000
    for number, text in enumerate(texts):
        (tmp_path / f"{number:05}.yaml").write_text(text)
    said = subprocess.run([python, "-P", RECORDER, tmp_path], check=True, capture_output=True, text=True).stdout
    verdicts = json.loads(said)["verdicts"]
    wrong = []
    for number, text in enumerate(texts):
        errors = errors_of(lint(str(tmp_path / f"{number:05}.yaml")))
        real = verdicts[f"{number:05}.yaml"]["verdict"]
        plain = [item.code for item in errors if not deliberate(item)]
        if real != ("refuse" if plain else "accept") and not (errors and not plain):
            wrong.append((real, plain, text))
    assert wrong == []


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
