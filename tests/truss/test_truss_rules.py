"""Rules that the corpus shows only by example: arithmetic, names, versions, hints, the folder around a config."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from hermetic.llm.findings import Severity
from hermetic.llm.truss.hardware import SM
from hermetic.llm.truss.lint import lint
from hermetic.llm.truss.section import SpeculationMode, Speculator
from hermetic.llm.truss.serving import AcceleratorName, Runtime

GOOD = "resources: {accelerator: H100, memory: 16Gi}\nmodel_metadata: {tags: [openai-compatible]}\n"
BUILD = f"{GOOD}trt_llm:\n  build:\n    checkpoint_repository: {{source: HF, repo: org/model}}\n"


def findings(tmp_path: Path, text: str, severity: Severity = Severity.ERROR) -> list[tuple[str, str]]:
    (tmp_path / "config.yaml").write_text(text)
    return [(item.code, item.where) for item in lint(str(tmp_path / "config.yaml")) if item.severity is severity]


def hints(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "config.yaml").write_text(text)
    return [item.hint for item in lint(str(tmp_path / "config.yaml")) if item.severity is Severity.ERROR]


class TestLookahead:
    """The largest number of draft tokens: (0 if n == 1 else n - 2) + (w - 1 + v) (n - 1)."""

    @settings(deadline=None)
    @given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
    def test_is_counted_by_hand(self, window: int, ngram: int, verification: int) -> None:
        """One lane of n - 2 tokens warms up, then each of w - 1 + v lanes holds n - 1."""
        speculator = Speculator(
            speculative_decoding_mode=SpeculationMode.LOOKAHEAD_DECODING,
            lookahead_windows_size=window,
            lookahead_ngram_size=ngram,
            lookahead_verification_set_size=verification,
        )
        lanes = [max(ngram - 2, 0), *([ngram - 1] * (window - 1 + verification))]
        assert speculator.lookahead_tokens == sum(lanes)
        assert speculator.draft_tokens == sum(lanes)

    @pytest.mark.parametrize(
        ("sizes", "tokens"), [((8, 3, 3), 21), ((5, 5, 5), 39), ((7, 5, 3), 39), ((8, 1, 1), 0), ((32, 1, 1), 0)]
    )
    def test_of_common_sizes(self, sizes: tuple[int, int, int], tokens: int) -> None:
        window, ngram, verification = sizes
        found = Speculator(
            lookahead_windows_size=window, lookahead_ngram_size=ngram, lookahead_verification_set_size=verification
        )
        assert found.lookahead_tokens == tokens

    def test_without_all_sizes_is_not_known(self) -> None:
        assert Speculator(lookahead_windows_size=8).lookahead_tokens is None


@settings(deadline=None)
@given(st.text(alphabet="aZ0_-./é ", max_size=12))
def test_repositories_are_those_that_the_hub_s_client_takes(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    try:
        validate_repo_id(name)
        takes = True
    except HFValidationError:
        takes = False
    quoted = '"' + name + '"'
    found = findings(tmp_path_factory.getbasetemp(), BUILD.replace("org/model", quoted))
    assert (found == []) == takes


@settings(deadline=None)
@given(st.text(alphabet="0129.abcrpostdev-+!vV", max_size=10))
def test_versions_of_the_server_are_those_that_packaging_takes(text: str) -> None:
    try:
        Version(text)
        takes = True
    except InvalidVersion:
        takes = False
    try:
        Runtime(truss_server_version_override=text)
        assert takes
    except ValueError:
        assert not takes


def test_every_accelerator_but_one_has_a_compute_capability() -> None:
    assert set(AcceleratorName) - SM.keys() == {AcceleratorName.B10}


def test_an_accelerator_without_a_known_product_is_noted(tmp_path: Path) -> None:
    noted = ("gpu-unknown", "resources.accelerator")
    assert noted in findings(tmp_path, BUILD.replace("H100", "L4"), Severity.NOTE)
    assert noted not in findings(tmp_path, BUILD, Severity.NOTE)


class TestHints:
    def test_a_misspelt_field(self, tmp_path: Path) -> None:
        assert hints(tmp_path, BUILD + "    max_num_token: 8\n") == ["did you mean max_num_tokens?"]

    def test_a_field_of_another_section(self, tmp_path: Path) -> None:
        text = BUILD + "    kv_cache_free_gpu_mem_fraction: 0.9\n"
        assert hints(tmp_path, text) == ["did you mean trt_llm.runtime.kv_cache_free_gpu_mem_fraction?"]

    def test_a_misspelt_value(self, tmp_path: Path) -> None:
        assert hints(tmp_path, BUILD + "    quantization_type: FP8_KV\n") == ["did you mean fp8_kv?"]

    def test_a_number_for_text(self, tmp_path: Path) -> None:
        assert hints(tmp_path, "resources: {cpu: 4}") == ['write it in quotes, as YAML takes it for a number: "4"']
        assert hints(tmp_path, "description: on") == ['write it in quotes, as YAML takes it for a switch: "true"']

    def test_v2_says_where_a_limit_belongs(self, tmp_path: Path) -> None:
        text = BUILD.replace("trt_llm:\n", "trt_llm:\n  inference_stack: v2\n  runtime: {}\n")
        assert hints(tmp_path, text + "    max_batch_size: 8\n") == ["trt_llm.runtime.max_batch_size"]

    def test_the_accelerators_that_can(self, tmp_path: Path) -> None:
        (hint,) = hints(tmp_path, BUILD + "    quantization_type: fp4\n")
        assert hint == "accelerators: B200, B300, GB300, RTX_PRO_6000"


class TestManyMistakes:
    def test_are_all_found_at_once(self, tmp_path: Path) -> None:
        """Wrong values, unknown fields and what fields say about each other, in one go."""
        text = """\
resources: {accelerator: "A100:2", cpu: 4}
trt_llm:
  build:
    checkpoint_repository: {source: HF, repo: a/b/c, revison: x}
    quantization_type: fp8
    quantization_config: {calib_size: 100}
    max_batch_size: many
    plugin_configuration: {paged_kv_cache: false}
"""
        assert {code for code, _ in findings(tmp_path, text)} == {
            "wrong-type",
            "unknown-field",
            "bad-calibration",
            "bad-repository",
            "quantisation-unsupported",
            "world-size",
            "paged-context-without-paged-cache",
            "chunked-context-without-paging",
        }

    def test_one_mistake_makes_no_second(self, tmp_path: Path) -> None:
        """What a default in the place of a wrong value would say is not about this config."""
        assert findings(tmp_path, BUILD + "    tensor_parallel_count: two\n") == [
            ("wrong-type", "trt_llm.build.tensor_parallel_count")
        ]
        assert findings(tmp_path, BUILD.replace("H100", "H1000") + "    quantization_type: fp4\n") == [
            ("unknown-accelerator", "resources.accelerator")
        ]

    def test_of_one_list_are_found_together(self, tmp_path: Path) -> None:
        text = 'weights: [{source: x, mount_location: y}, {source: "hf://a/b", mount_location: /a, foo: 1}]'
        assert findings(tmp_path, text) == [
            ("bad-address", "weights.0.source"),
            ("not-absolute", "weights.0.mount_location"),
            ("unknown-field", "weights.1.foo"),
        ]


class TestFolder:
    def model(self, tmp_path: Path, text: str) -> list[tuple[str, str]]:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "model.py").write_text(text)
        return findings(tmp_path, BUILD)

    def test_without_a_model_file_there_is_nothing_to_check(self, tmp_path: Path) -> None:
        assert findings(tmp_path, BUILD) == []

    def test_a_model_that_takes_the_engine(self, tmp_path: Path) -> None:
        assert self.model(tmp_path, "class Model:\n    def __init__(self, trt_llm, **more): ...\n") == []

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("class Model:\n    def __init__(self, **more): ...\n", "bad-model-class"),
            ("class Model: ...\n", "bad-model-class"),
            ("class Other:\n    def __init__(self, trt_llm): ...\n", "bad-model-class"),
            ("class Model(:\n", "bad-model-file"),
        ],
    )
    def test_a_model_that_does_not(self, tmp_path: Path, text: str, code: str) -> None:
        assert [found for found, _ in self.model(tmp_path, text)] == [code]

    def test_only_engines_are_handed_to_models(self, tmp_path: Path) -> None:
        self.model(tmp_path, "class Model: ...\n")
        assert findings(tmp_path, "model_name: x\n") == []

    def test_packages_lie_beside_the_config(self, tmp_path: Path) -> None:
        text = "external_package_dirs: [../shared, packages]\n"
        (tmp_path / "packages").mkdir()
        assert findings(tmp_path, text) == [("folder-missing", "external_package_dirs.0")]
