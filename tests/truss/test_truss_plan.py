"""Configs as build plans: golden documents, and the rules that they follow."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from truss_corpus import CORPUS, cases

from hermetic.llm.convert import conversion
from hermetic.llm.trtllm import check_values, table
from hermetic.llm.truss.families import FAMILIES, by_architecture, by_name, family_of
from hermetic.llm.truss.load import load
from hermetic.llm.truss.plan import BuildPlan, plan_of
from hermetic.llm.truss.section import Quantisation, Repository, Source

GOLDEN = (
    "v1-smallest",
    "v1-all-build-fields",
    "v1-all-runtime-fields",
    "lookahead-833",
    "quant-fp4-kv-b200",
    "quant-old-smooth-quant",
    "parallel-2x2",
    "experts-uneven",
    "source-s3",
    "versions",
    "v2-all",
    "quant-fp8-mlp-only-l4",
)


def plan(name: str) -> BuildPlan:
    found = plan_of(load(str(CORPUS / f"{name}.yaml")))
    assert found is not None
    return found


def of(tmp_path: Path, text: str) -> BuildPlan:
    (tmp_path / "config.yaml").write_text(text)
    found = plan_of(load(str(tmp_path / "config.yaml")))
    assert found is not None
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str, golden) -> None:
    golden(f"truss/{name}.json", json.dumps(asdict(plan(name)), indent=1, sort_keys=True) + "\n")


def test_a_config_without_an_engine_has_no_plan() -> None:
    assert plan_of(load(str(CORPUS / "no-trt-llm.yaml"))) is None


def test_every_accepted_config_has_a_plan_or_no_engine() -> None:
    for case in cases():
        if not case.refuses:
            truss = load(str(case.path))
            assert (plan_of(truss) is None) == (truss.section is None), case.path.name


def test_every_engine_option_is_one_of_the_release() -> None:
    """As long as the release is one whose options are known."""
    for case in cases():
        found = None if case.refuses else plan_of(load(str(case.path)))
        if found is not None and found.kind == "tensorrt-llm":
            checked = check_values(found.engine, table("trtllm-build", found.release))
            assert [item.message for item in checked.findings] == [], case.path.name


@pytest.mark.parametrize("quantisation", Quantisation)
def test_every_quantisation_has_a_way_or_is_missing(quantisation: Quantisation, tmp_path: Path) -> None:
    build = f"{{checkpoint_repository: {{source: HF, repo: a/b}}, quantization_type: {quantisation.value}}}"
    found = of(tmp_path, f"resources: {{accelerator: B200}}\ntrt_llm: {{build: {build}}}\n")
    ways = {bool(found.format), quantisation.value in conversion()["types"], bool(found.missing)}
    assert True in ways
    assert (found.format != "") == (quantisation.value in conversion()["instead"])


def test_only_serving_changes_nothing_that_is_built(tmp_path: Path) -> None:
    text = (CORPUS / "v1-all-runtime-fields.yaml").read_text("utf-8")
    before, after = of(tmp_path, text), of(tmp_path, text.replace("0.85", "0.5"))
    assert asdict(before) | {"runtime": None} == asdict(after) | {"runtime": None}
    assert before.runtime["kv_cache_free_gpu_mem_fraction"] == "0.85"


def test_numbers_with_a_fraction_are_text_everywhere_in_a_plan_of_v1() -> None:
    found = json.loads(json.dumps(asdict(plan("v1-all-runtime-fields"))), parse_float=lambda _: math.nan)
    assert "NaN" not in json.dumps(found)


def test_the_builder_s_version_names_the_release(tmp_path: Path) -> None:
    assert plan("versions").release == "0.20.0"
    assert plan("versions").image.endswith(":0.20.0")
    assert plan("v1-smallest").release == "1.2.1"


def test_the_cache_is_spelt_as_the_release_spells_it(tmp_path: Path) -> None:
    text = (CORPUS / "version-fp4-too-old.yaml").read_text("utf-8").replace("0.16.0.post4", "0.12.0")
    assert of(tmp_path, text).engine["paged_kv_cache"] == "enable"
    assert "kv_cache_type" not in of(tmp_path, text).engine


@pytest.mark.parametrize(
    ("repository", "family"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "llama"),
        ("mistralai/Mistral-7B-v0.3", "mistral"),
        ("mistralai/Mixtral-8x7B", "mistral"),
        ("Qwen/Qwen2.5-32B-Instruct", "qwen2"),
        ("Qwen/Qwen3-32B", "qwen3"),
        ("deepseek-ai/DeepSeek-V3", "deepseek"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3"),
        ("openai/whisper-large-v3", "whisper"),
        ("acme/model", ""),
    ],
)
def test_families_by_name(repository: str, family: str) -> None:
    assert by_name(repository).name == family


def test_a_checkpoint_beside_the_config_says_its_family_itself(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    here = Repository(source=Source.LOCAL, repo="llama")
    assert family_of(here, str(tmp_path)).name == "qwen3"
    (tmp_path / "llama" / "config.json").write_text("no JSON")
    assert family_of(here, str(tmp_path)).name == "llama"


def test_every_family_is_converted_by_a_script_or_says_that_it_is_not() -> None:
    known = {name for names in conversion()["families"].values() for name in names}
    for family in FAMILIES:
        assert family.missing or set(family.architectures) <= known, family.name
        assert all(by_architecture(name) is family for name in family.architectures)
