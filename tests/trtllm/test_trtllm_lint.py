"""Contradictions between image, release, model family, quantisation and options, named before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hermetic.llm.support.releases import (
    contents,
    cuda_for,
    first_release,
    first_release_of_model,
    is_older,
    release_for,
)

RECIPES = Path(__file__).parents[2] / "recipes"
DIGEST = "@sha256:" + "0" * 64
RECIPE = """\
from hermetic import Gpu, Image, Source, hub_snapshot
from hermetic.llm import tensorrt_llm
from hermetic.llm.quantise import calibration, quantise

image = Image("registry.example.com/nvidia/{image}{digest}")
{weights}
engine = tensorrt_llm.Engine(environment=image, release="{release}", checkpoint=weights, options={options})
"""
QUANTISED = """\
samples = calibration(Source("samples.txt"), count=8, column="", max_length=64, seed=1)
weights = quantise(Source("model"), "w4a8_awq", kv_cache="fp8", export="tensorrt_llm", calibration=samples)
"""


@pytest.fixture
def lint(tmp_path: Path, cli):
    for name in ("model", "checkpoint"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "samples.txt").write_text("one\n\ntwo\n")

    def run(image: str, release: str = "1.2.1", weights: str = 'weights = Source("checkpoint")', options: str = "{}"):
        text = RECIPE.format(image=image, digest=DIGEST, release=release, weights=weights, options=options)
        (tmp_path / "recipe.py").write_text(text)
        result = cli("lint", "recipe.py", "--json")
        found = [json.loads(line) for line in result.lines]
        return result.exit_code, [one for one in found if one["severity"] != "note"]

    return run


class TestContradictions:
    def test_an_engine_that_agrees_with_itself(self, lint) -> None:
        assert lint("tensorrt-llm/release:1.2.1") == (0, [])

    def test_an_image_of_another_release(self, lint) -> None:
        code, (found,) = lint("tensorrt-llm/release:1.2.0")
        assert (code, found["code"], found["where"], found["line"]) == (3, "image-and-release", "engine: release", 7)
        assert "1.2.0" in found["message"]
        assert "release='1.2.0'" in found["hint"]

    def test_the_guide_s_image_is_far_too_old(self, lint) -> None:
        code, (found,) = lint("tensorrt-llm/release:24.05-trtllm-python-py3", release="0.12.0")
        assert (code, found["code"]) == (3, "image-and-release")
        assert "TensorRT-LLM 0.9.0" in found["message"]

    def test_four_bit_weights_an_fp8_cache_and_paged_context_attention(self, lint) -> None:
        options = '{"use_paged_context_fmha": "enable"}'
        code, (found,) = lint("tensorrt-llm/release:1.2.1", weights=QUANTISED, options=options)
        assert (code, found["code"]) == (3, "format-and-cache")
        assert "use_paged_context_fmha" in found["hint"]
        assert found["source"]

    def test_of_the_image_s_own_script_too(self, lint) -> None:
        inside = QUANTISED.replace(
            'quantise(Source("model"), "w4a8_awq", kv_cache="fp8", export="tensorrt_llm",',
            (
                'tensorrt_llm.Quantise(environment=image, release="1.2.1", snapshot=Source("model"),'
                ' format="w4a8_awq", kv_cache="fp8",'
            ),
        )
        code, (found,) = lint("tensorrt-llm/release:1.2.1", weights=inside)
        assert (code, found["code"]) == (3, "format-and-cache")

    def test_without_paged_context_attention_they_go_together(self, lint) -> None:
        options = '{"use_paged_context_fmha": "disable"}'
        assert lint("tensorrt-llm/release:1.2.1", weights=QUANTISED, options=options) == (0, [])

    def test_an_option_that_does_not_exist_is_an_error_of_the_recipe(self, lint) -> None:
        code, (found,) = lint("tensorrt-llm/release:1.2.1", options='{"max_output_tokens": 1024}')
        assert (code, found["severity"]) == (3, "error")
        assert "--max_output_tokens" in found["message"]

    @pytest.mark.parametrize("name", ["max_batch_size", "max_seq_len", "max_beam_width"])
    def test_a_limit_of_nothing_is_an_error(self, lint, name: str) -> None:
        code, (found,) = lint("tensorrt-llm/release:1.2.1", options=f'{{"{name}": 0}}')
        assert (code, found["code"]) == (3, "out-of-range")

    def test_a_doubt_is_a_warning(self, lint) -> None:
        code, (found,) = lint("tritonserver:25.04-trtllm-python-py3", "0.18.2", options='{"fuse_fp4_quant": "enable"}')
        assert (code, found["severity"], found["code"]) == (0, "warning", "unsure-option")

    def test_a_blackwell_card_on_the_guide_s_cuda(self, lint) -> None:
        """The build guide: an RTX 5090 with CUDA 12.4 and driver 555."""
        gpu = '{}, gpu=Gpu("NVIDIA GeForce RTX 5090", memory_gib=32, sm="12.0")'
        code, found = lint("tritonserver:24.12-trtllm-python-py3", "0.16.0", options=gpu)
        assert (code, [one["code"] for one in found]) == (3, ["gpu-and-release", "gpu-and-image"])
        assert {one["where"] for one in found} == {"engine: gpu"}
        assert "needs CUDA 12.8" in found[1]["message"]
        assert all(one["source"] for one in found)
        assert lint("tensorrt-llm/release:1.2.1", options=gpu) == (0, [])

    def test_qwen3_on_an_image_that_is_older(self, lint, tmp_path: Path) -> None:
        weights = 'weights = Source("checkpoint")'
        (tmp_path / "checkpoint" / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
        code, (found,) = lint("tritonserver:25.06-trtllm-python-py3", "0.20.0", weights=weights)
        assert (code, found["code"], found["hint"]) == (3, "model-and-release", "1.0.0 is the first that does")

    @pytest.mark.parametrize(("architecture", "code"), [("Qwen3ForCausalLM", ["format-not-listed"]), ("Unheard", [])])
    def test_what_the_maker_does_not_list_is_noted(
        self, tmp_path: Path, cli, architecture: str, code: list[str]
    ) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        (tmp_path / "recipe.py").write_text(
            "from hermetic import Image, Source\nfrom hermetic.llm import tensorrt_llm\n"
            f'image = Image("nvcr.io/nvidia/tensorrt-llm/release:1.2.1{DIGEST}")\n'
            'place = {"environment": image, "release": "1.2.1"}\nsource = Source(".")\n'
            'weights = tensorrt_llm.Quantise(**place, snapshot=source, calibration=source, format="int4_awq")\n'
            "engine = tensorrt_llm.Engine(**place, checkpoint=weights)\n"
        )
        result = cli("lint", "recipe.py", "--json")
        found = [json.loads(line) for line in result.lines]
        assert (result.exit_code, [one["code"] for one in found]) == (0, code)
        assert all(one["severity"] == "note" and "fp8, nvfp4" in one["hint"] for one in found)

    @pytest.mark.parametrize("name", ["DeepSeek-V3", "DeepSeek-R1-0528"])
    def test_deepseek_is_built_by_no_release(self, lint, tmp_path: Path, name: str) -> None:
        (tmp_path / "checkpoint" / "config.json").write_text('{"architectures": ["DeepseekV3ForCausalLM"]}')
        code, (found,) = lint("tensorrt-llm/release:1.2.1")
        assert (code, found["code"], found["where"]) == (3, "model-without-engines", "engine: checkpoint")
        assert "PyTorchModel" in found["hint"]
        assert "2831" in found["source"]
        first = first_release_of_model(f"deepseek-ai/{name}")
        assert first is not None
        assert not first.since

    def test_qwen3_from_the_hub_too(self, lint, tmp_path: Path) -> None:
        shutil.copy(RECIPES / "qwen3.lock.json", tmp_path / "recipe.lock.json")
        ignored = '(".gitattributes", "LICENSE", "README.md")'
        weights = f'weights = hub_snapshot("Qwen/Qwen3-32B", revision="main", ignore={ignored})'
        found = lint("tritonserver:25.05-trtllm-python-py3", "0.19.0", weights=weights)[1]
        assert [one["code"] for one in found] == ["model-and-release"]

    def test_a_branch_is_no_pin(self, lint) -> None:
        code, found = lint(
            "tensorrt-llm/release:1.2.1", weights='weights = hub_snapshot("Qwen/Qwen3-32B", revision="main")'
        )
        assert (code, [(one["severity"], one["code"]) for one in found]) == (0, [("warning", "not-locked")])

    def test_w4a8_where_there_is_no_kernel(self, lint) -> None:
        gpu = '{"use_paged_context_fmha": "disable"}, gpu=Gpu("NVIDIA A100-SXM4-80GB", memory_gib=80, sm="8.0")'
        code, found = lint("tensorrt-llm/release:1.2.1", weights=QUANTISED, options=gpu)
        assert code == 3
        assert ("format-for-gpu", "engine: gpu") in [(one["code"], one["where"]) for one in found]

    def test_an_engine_that_is_called_like_a_plan(self, lint) -> None:
        code, (found,) = lint("tensorrt-llm/release:1.2.1", options='{}, name="qwen3-32b-w4a8.plan"')
        assert (code, found["code"]) == (3, "plan-file")
        assert "rank0.engine" in found["message"]

    def test_a_checkpoint_for_the_llm_api_is_held_against_its_image_and_gpu_too(self, tmp_path: Path, cli) -> None:
        (tmp_path / "recipe.py").write_text(
            "from hermetic import Gpu, Image, Source\nfrom hermetic.llm.pytorch import PyTorchModel\n"
            f'image = Image("nvcr.io/nvidia/tritonserver:25.05-trtllm-python-py3{DIGEST}")\n'
            'model = PyTorchModel(checkpoint=Source("."), release="1.2.1", runtime=image,\n'
            '    runtime_gpu=Gpu("NVIDIA B300", memory_gib=268, sm="10.3"))\n'
        )
        result = cli("lint", "recipe.py", "--json")
        codes = [json.loads(line)["code"] for line in result.lines]
        assert (result.exit_code, codes[:2]) == (3, ["image-and-release", "gpu-and-image"])


class TestTables:
    @pytest.mark.parametrize(
        ("reference", "release"),
        [
            ("mirror.example.com/nvidia/tritonserver:26.07-trtllm-python-py3", "1.2.1"),
            ("nvidia/tritonserver:25.05-trtllm-python-py3@sha256:00", "0.19.0"),
            ("nvidia/tensorrt-llm/release:1.3.0rc20", "1.3.0rc20"),
            ("nvidia/tritonserver:25.05-py3", None),
            ("debian:12", None),
        ],
    )
    def test_what_a_tag_says(self, reference: str, release: str | None) -> None:
        held = contents(reference)
        assert (held.tensorrt_llm if held else None) == release

    def test_a_blackwell_card_needs_a_newer_cuda_than_the_guide_s(self) -> None:
        needed, source = cuda_for("120")
        assert is_older("12.4", needed)
        assert source
        assert [cuda_for(sm)[0] for sm in ("100", "103", "120", "121")] == ["12.8", "12.9", "12.8", "12.9"]
        assert cuda_for("999")[0] == ""

    @pytest.mark.parametrize("sm", ["100", "103", "120", "121"])
    def test_when_a_gpu_came(self, sm: str) -> None:
        first = release_for(sm)
        assert first is not None
        assert "release-notes.md" in first.source
        assert release_for("90") is None

    @pytest.mark.parametrize(
        ("architecture", "since"),
        [
            ("Qwen3ForCausalLM", "1.0.0"),  # 0.20 has it for the PyTorch backend only
            ("Gemma3ForCausalLM", "0.19.0"),
            ("DeepseekV2ForCausalLM", "0.15.0"),
            ("WhisperForConditionalGeneration", "0.11.0"),
            ("DeepseekV3ForCausalLM", ""),  # no release: a preview branch only
            ("UnheardOf", None),
        ],
    )
    def test_when_an_architecture_came(self, architecture: str, since: str | None) -> None:
        found = first_release(architecture)
        assert (found.since if found else None) == since

    @pytest.mark.parametrize(
        ("repository", "what", "since"),
        [
            ("Qwen/Qwen3-32B", "Qwen3ForCausalLM", "1.0.0"),
            ("Qwen/Qwen3-30B-A3B", "Qwen3MoeForCausalLM", "1.0.0"),
            ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct", "0.12.0"),
            ("meta-llama/Llama-3.2-3B", "Llama-3.2-3B", "0.15.0"),
            ("google/gemma-2-9b", "Gemma2ForCausalLM", "0.13.0"),
            ("openai/whisper-large-v3", "WhisperForConditionalGeneration", "0.11.0"),
        ],
    )
    def test_when_a_model_came(self, repository: str, what: str, since: str) -> None:
        found = first_release_of_model(repository)
        assert found is not None
        assert (found.what, found.since) == (what, since)
        assert "release-notes.md" in found.source

    @pytest.mark.parametrize("repository", ["acme/qwen-like", "Qwen/Qwen3-Next-80B", "x/DeepSeek-R1-Distill-Qwen-7B"])
    def test_of_other_models_nothing_is_said(self, repository: str) -> None:
        assert first_release_of_model(repository) is None

    @pytest.mark.parametrize(
        ("version", "than", "older"),
        [("0.9.0", "0.20.0", True), ("1.2.1", "1.2.1", False), ("1.3.0rc2", "1.2.1", False)],
    )
    def test_order(self, version: str, than: str, older: bool) -> None:
        assert is_older(version, than) == older
