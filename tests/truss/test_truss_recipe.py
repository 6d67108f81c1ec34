"""Configs as stages: which there are, and what they are asked to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.llm.convert import Convert
from hermetic.llm.lora import Adapters
from hermetic.llm.pytorch import PyTorchModel
from hermetic.llm.quantise import Calibration, Quantise
from hermetic.llm.speculation import Lookahead
from hermetic.llm.tensorrt_llm import Engine, Manifest
from hermetic.recipe import FixedOutput, Gpu, Recipe, Source, load
from hermetic.recipe.pins import locking

HEAD = "resources: {{accelerator: {accelerator}, memory: 16Gi}}\nmodel_metadata: {{tags: [openai-compatible]}}\n"
REPOSITORY = "{source: HF, repo: Qwen/Qwen3-8B, revision: v1, runtime_secret_name: mine}"


def recipe(tmp_path: Path, build: str = "", *, accelerator: str = "H100", repository: str = REPOSITORY) -> Recipe:
    """The config of v1 with `build`, evaluated as ``hermetic lock`` does it."""
    lines = "".join(f"    {line}\n" for line in build.splitlines())
    text = f"trt_llm:\n  build:\n    checkpoint_repository: {repository}\n{lines}"
    return of(tmp_path, HEAD.format(accelerator=accelerator) + text)


def of(tmp_path: Path, text: str, **overrides: str) -> Recipe:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with locking():
        return load(str(path), overrides)


def model(tmp_path: Path, build: str = "", runtime: str = "{}") -> PyTorchModel:
    build = f"{{checkpoint_repository: {REPOSITORY}{build}}}"
    text = f"trt_llm:\n  inference_stack: v2\n  build: {build}\n  runtime: {runtime}\n"
    made = of(tmp_path, HEAD.format(accelerator='"H100:2"') + text).stages["model"]
    assert isinstance(made, PyTorchModel)
    return made


def errors(tmp_path: Path, text: str) -> list[HermeticError]:
    with pytest.raises(HermeticError) as caught:
        of(tmp_path, text)
    error = caught.value
    return error.errors if isinstance(error, HermeticErrors) else [error]


def test_weights_that_are_only_converted(tmp_path: Path) -> None:
    made = recipe(tmp_path, "tensor_parallel_count: 2", accelerator='"H100:2"')
    assert list(made.stages) == ["checkpoint", "engine", "smoke", "manifest"]
    checkpoint, engine = made.stages["checkpoint"], made.stages["engine"]
    assert isinstance(checkpoint, Convert)
    assert isinstance(engine, Engine)
    assert (checkpoint.tp, checkpoint.pp, checkpoint.options) == (2, 1, {})
    assert engine.checkpoint is checkpoint
    assert engine.quantisation == ""
    assert made.select(None) is engine


def test_the_snapshot_is_what_the_config_names(tmp_path: Path) -> None:
    snapshot = recipe(tmp_path).fixed["snapshot"]
    assert snapshot.uri == "hf://Qwen/Qwen3-8B@v1"
    assert snapshot.secret == "mine"
    assert "original/*" in snapshot.ignore


def test_fp8_is_quantised_from_samples(tmp_path: Path) -> None:
    build = "quantization_type: fp8_kv\nquantization_config: {calib_size: 64}\nnum_builder_gpus: 1"
    made = recipe(tmp_path, build)
    checkpoint, samples, engine = (made.stages[name] for name in ("checkpoint", "samples", "engine"))
    assert isinstance(checkpoint, Quantise)
    assert isinstance(samples, Calibration)
    assert isinstance(engine, Engine)
    assert (checkpoint.format, checkpoint.kv_cache, checkpoint.export) == ("fp8", "fp8", "tensorrt_llm")
    assert (samples.count, samples.max_length, samples.column, samples.split) == (64, 1536, "article", "train")
    assert made.fixed["dataset"].uri == "hf://datasets/abisee/cnn_dailymail@main"
    assert engine.quantisation == "FP8"
    assert engine.options["use_fp8_context_fmha"] == "enable"
    manifest = made.stages["manifest"]
    assert isinstance(manifest, Manifest)
    assert manifest.calibration is samples


def test_another_data_set_has_its_texts_in_text(tmp_path: Path) -> None:
    build = "quantization_type: fp8\nquantization_config: {calib_dataset: acme/texts}\nnum_builder_gpus: 1"
    samples = recipe(tmp_path, build).stages["samples"]
    assert isinstance(samples, Calibration)
    assert samples.column == "text"


def test_old_formats_are_options_of_the_conversion(tmp_path: Path) -> None:
    build = (
        "quantization_type: weights_kv_int8\nplugin_configuration: {use_paged_context_fmha: false}\n"
        "quantization_config: {calib_size: 64}"
    )
    text = HEAD.format(accelerator="A100") + "trt_llm:\n  runtime: {enable_chunked_context: false}\n  build:\n"
    text += "".join(f"    {line}\n" for line in [f"checkpoint_repository: {REPOSITORY}", *build.splitlines()])
    checkpoint = of(tmp_path, text, gpu="none").stages["checkpoint"]
    assert isinstance(checkpoint, Convert)
    assert checkpoint.options == {
        "use_weight_only": True,
        "weight_only_precision": "int8",
        "int8_kv_cache": True,
    }
    assert checkpoint.calibration is not None


def test_adapters_are_checked_beside_the_engine(tmp_path: Path) -> None:
    build = (
        "lora_adapters: {fr: {source: HF, repo: acme/fr}}\n"
        "lora_configuration: {max_lora_rank: 16, lora_target_modules: [attn_q]}"
    )
    made = recipe(tmp_path, build)
    adapters, engine = made.stages["adapters"], made.stages["engine"]
    assert isinstance(adapters, Adapters)
    assert isinstance(engine, Engine)
    assert list(adapters.adapters) == ["fr"]
    assert engine.options["lora_plugin"] == "auto"
    assert engine.options["max_lora_rank"] == 16


@pytest.mark.parametrize(("count", "tested"), [("", True), (", num_draft_tokens: 50", False)])
def test_lookahead_is_tested_with_its_sizes(tmp_path: Path, count: str, tested: bool) -> None:
    sizes = "lookahead_windows_size: 5, lookahead_ngram_size: 5, lookahead_verification_set_size: 5"
    made = recipe(tmp_path, f"speculator: {{speculative_decoding_mode: LOOKAHEAD_DECODING, {sizes}{count}}}")
    engine = made.stages["engine"]
    assert isinstance(engine, Engine)
    assert engine.options["max_draft_len"] == (39 if tested else 50)
    assert engine.speculation == (Lookahead(window=5, ngram=5, verification=5) if tested else None)
    assert ("smoke" in made.stages) == tested


@pytest.mark.parametrize(
    ("repository", "uri"),
    [
        ("{source: S3, repo: s3://bucket/path}", "s3://bucket/path/"),
        ("{source: GCS, repo: bucket/path/}", "gs://bucket/path/"),
    ],
)
def test_buckets_are_fixed_outputs(repository: str, uri: str, tmp_path: Path) -> None:
    assert recipe(tmp_path, repository=repository).fixed["snapshot"].uri == uri


def test_a_checkpoint_beside_the_config_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    engine = recipe(tmp_path, repository="{source: LOCAL, repo: mine}").stages["engine"]
    assert isinstance(engine, Engine)
    assert isinstance(engine.tokenizer, Source)
    assert not isinstance(engine.tokenizer, FixedOutput)
    assert engine.tokenizer.path == str(tmp_path / "mine")


def test_parameters_say_what_a_config_cannot(tmp_path: Path) -> None:
    text = HEAD.format(accelerator="H100") + f"trt_llm: {{build: {{checkpoint_repository: {REPOSITORY}}}}}\n"
    made = of(tmp_path, text, image="registry.example.com/builder:1", accept_licence="llama3.1")
    assert made.fixed["snapshot"].accepted == "llama3.1"
    engine = made.stages["engine"]
    assert getattr(engine.environment, "reference", "") == "registry.example.com/builder:1"
    assert set(made.parameters) == {"image", "accept_licence", "gpu", "driver"}


class TestGpu:
    def of(self, tmp_path: Path, accelerator: str, build: str = "", **overrides: str) -> Gpu | None:
        text = f"trt_llm: {{build: {{checkpoint_repository: {REPOSITORY}{build}}}}}\n"
        return of(tmp_path, HEAD.format(accelerator=accelerator) + text, **overrides).stages["engine"].gpu

    def test_is_the_accelerator(self, tmp_path: Path) -> None:
        assert self.of(tmp_path, "H100") == Gpu("NVIDIA H100 80GB HBM3")
        assert self.of(tmp_path, '"H200:4"', ", tensor_parallel_count: 4") == Gpu("NVIDIA H200", count=4)

    def test_two_accelerators_never_share_an_engine(self, tmp_path: Path) -> None:
        one, other = self.of(tmp_path, "H100"), self.of(tmp_path, "H200")
        assert one is not None
        assert other is not None
        assert one.identity() != other.identity()

    def test_a_builder_may_have_more(self, tmp_path: Path) -> None:
        found = self.of(tmp_path, "H100", ", num_builder_gpus: 2")
        assert found is not None
        assert found.count == 2

    def test_an_accelerator_that_nobody_measured_is_asked_for(self, tmp_path: Path) -> None:
        text = f"trt_llm: {{build: {{checkpoint_repository: {REPOSITORY}}}}}\n"
        (error,) = errors(tmp_path, HEAD.format(accelerator="L4") + text)
        assert (error.domain, error.reason) == (Domain.RECIPE, "gpu-unknown")

    def test_it_may_be_said(self, tmp_path: Path) -> None:
        found = self.of(tmp_path, "L4", gpu="NVIDIA Made Up, 22, 8.9")
        assert found == Gpu("NVIDIA Made Up", memory_gib=22, sm="8.9")
        assert self.of(tmp_path, "L4", gpu="none") is None

    def test_without_an_accelerator_it_is_the_machine_s(self, tmp_path: Path) -> None:
        found = self.of(tmp_path, "null")
        assert found is not None
        assert not found.declared


def test_v2_is_a_checkpoint_and_its_arguments(tmp_path: Path) -> None:
    made = model(
        tmp_path, runtime="{max_batch_size: 16, tensor_parallel_size: 2, patch_kwargs: {enable_autotuner: false}}"
    )
    assert isinstance(made.checkpoint, FixedOutput)
    assert made.tp == 2
    assert made.options == {
        "max_batch_size": 16,
        "max_num_tokens": 8192,
        "enable_chunked_prefill": True,
        "enable_autotuner": False,
    }


def test_v2_is_quantised_in_hugging_face_s_form(tmp_path: Path) -> None:
    made = model(tmp_path, ", quantization_type: fp8, num_builder_gpus: 2")
    assert isinstance(made.checkpoint, Quantise)
    assert (made.checkpoint.export, made.quantisation) == ("hf", "FP8")


def test_decimals_of_v2_are_text_where_the_stage_knows_them(tmp_path: Path) -> None:
    made = model(tmp_path, runtime="{patch_kwargs: {kv_cache_config: {free_gpu_memory_fraction: 0.85}}}")
    assert made.options["kv_cache_config"] == {"free_gpu_memory_fraction": "0.85"}


class TestErrors:
    def test_of_the_config_are_those_of_lint(self, tmp_path: Path) -> None:
        text = HEAD.format(accelerator="A100") + (
            "trt_llm: {build: {checkpoint_repository: {source: HF, repo: a/b/c}, quantization_type: fp8}}\n"
        )
        found = errors(tmp_path, text)
        assert {(error.domain, error.reason) for error in found} == {
            (Domain.RECIPE, "bad-repository"),
            (Domain.RECIPE, "quantisation-unsupported"),
        }
        assert all("config.yaml:3: trt_llm.build." in error.message for error in found)
        assert found[0].data["line"] == 3

    def test_of_a_stage_say_which_config(self, tmp_path: Path) -> None:
        build = f"{{checkpoint_repository: {REPOSITORY}}}"
        text = f"trt_llm:\n  inference_stack: v2\n  build: {build}\n  runtime: {{patch_kwargs: {{brand_new: 1}}}}\n"
        (error,) = errors(tmp_path, text)
        assert (error.domain, error.reason) == (Domain.RECIPE, "stage-invalid")
        assert "config.yaml: " in error.message
        assert "brand_new" in error.message

    def test_a_fraction_that_nobody_knows_is_refused(self, tmp_path: Path) -> None:
        build = f"{{checkpoint_repository: {REPOSITORY}}}"
        runtime = "{patch_kwargs: {moe_config: {a: 0.5}}}"
        text = f"trt_llm:\n  inference_stack: v2\n  build: {build}\n  runtime: {runtime}\n"
        assert {error.reason for error in errors(tmp_path, text)} == {"float"}

    def test_what_is_missing_is_named_all_at_once(self, tmp_path: Path) -> None:
        text = HEAD.format(accelerator="H100") + (
            f"trt_llm: {{build: {{checkpoint_repository: {REPOSITORY}, quantization_type: fp8_mlp_only, "
            "base_model: encoder}}\n"
        )
        assert [error.reason for error in errors(tmp_path, text)] == ["not-yet-built", "not-yet-built"]
