"""The engine stage: options of the pinned release, in the key as the tool will see them; what cannot be is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from hermetic.errors import Domain, HermeticError
from hermetic.llm import tensorrt_llm
from hermetic.recipe import Host, Source

CHECKPOINT = Source(__file__)
ENVIRONMENT = Host(paths=("/bin/sh",))


def engine(**fields: Any) -> tensorrt_llm.Engine:
    given = {"environment": ENVIRONMENT, "checkpoint": CHECKPOINT, "release": "1.2.1"}
    return tensorrt_llm.Engine(**{**given, **fields})


class TestOptions:
    def test_the_release_s_defaults_are_in_the_key(self) -> None:
        plain = engine().parameters_in_key()["options"]
        assert isinstance(plain, dict)
        assert (plain["max_batch_size"], plain["tokens_per_block"]) == (2048, 32)
        assert engine(options={"max_batch_size": 2048}).parameters_in_key() == engine().parameters_in_key()
        assert engine(options={"max_batch_size": 4}).parameters_in_key() != engine().parameters_in_key()
        assert engine(release="0.12.0").options["max_batch_size"] == 256

    def test_a_default_that_nobody_read_is_left_to_the_tool(self) -> None:
        assert "tokens_per_block" not in engine(release="0.20.0").options

    def test_all_spellings_are_one_key(self) -> None:
        keys = [
            engine(options=options).parameters_in_key()
            for options in (
                {"max_batch_size": 4, "use_paged_context_fmha": "enable"},
                {"max-batch-size": "4", "use_paged_context_fmha": True},
                {"--max_batch_size": 4},
            )
        ]
        assert keys[0] == keys[1] == keys[2]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"options": {"kv_cache_precision": "fp8"}}, "kv_cache_quant_algo"),
            ({"options": {"max_input_tokens": 4096}}, "use --max_input_len"),
            ({"options": {"enable_xqa": "enable"}}, "does not have --enable_xqa"),
            ({"options": {"max_batch_size": "many"}}, "a whole number"),
            ({"options": {"output_dir": "/tmp"}}, "the stage itself gives"),
            ({"options": {"max_input_len": 4096, "max_seq_len": 1024}}, "is over max_seq_len"),
            ({"options": {"opt_num_tokens": 8, "multiple_profiles": True}}, "multiple profiles"),
            ({"options": {"kv_cache_type": "continuous"}}, "paged key-value cache"),
            ({"options": {"weight_streaming": True, "gemm_plugin": "auto"}}, "weight streaming"),
            ({"options": {"speculative_decoding_mode": "draft_tokens_external"}}, "greatest number of draft tokens"),
            ({"options": {"speculative_decoding_mode": "lookahead_decoding"}}, "greatest number of draft tokens"),
            ({"options": {"max_draft_len": 10}}, "no speculative_decoding_mode"),
            (
                {
                    "options": {
                        "speculative_decoding_mode": "draft_tokens_external",
                        "max_draft_len": 10,
                        "use_paged_context_fmha": "disable",
                    }
                },
                "blocks are reused",
            ),
            ({"options": {"speculative_decoding_mode": "medusa", "max_beam_width": 4}}, "beam search"),
            ({"options": {"speculative_decoding_mode": "eagle", "max_beam_width": 2}}, "beam search"),
            ({"options": {"speculative_decoding_mode": "guess"}}, "lookahead_decoding"),
            ({"options": {"lora_target_modules": ["attn_qkv"]}}, "LoRA plugin"),
            ({"adapters": CHECKPOINT}, "LoRA plugin"),
            ({"options": {"lora_dir": ["/adapters"]}}, "use adapters="),
            ({"options": {"build_config": "build.json"}}, "would not see"),
            ({"options": {"fast_build": True}}, "fast_build"),
            ({"options": {"context_fmha": "disable"}}, "fused context attention"),
            ({"options": {"kv_cache_type": "linear"}}, "continuous, paged, disabled"),
            (
                {"release": "0.12.0", "options": {"paged_kv_cache": "disable", "use_paged_context_fmha": "enable"}},
                "paged",
            ),
            ({"release": "1.3.0"}, "no engine builder after 1.3.0rc20"),
            ({"release": "latest"}, "no table"),
            ({"builder": "trtllm-bench"}, "needs model"),
            ({"model": "Qwen/Qwen3-32B"}, "needs model"),
            ({"builder": "make"}, "trtllm-build"),
        ],
    )
    def test_what_cannot_be_is_refused_when_the_recipe_is_read(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(HermeticError) as caught:
            engine(**fields)
        assert caught.value.domain == Domain.RECIPE
        assert said in str(caught.value)

    def test_all_wrong_options_are_named_at_once(self) -> None:
        with pytest.raises(HermeticError) as caught:
            engine(options={"max_input_tokens": 4096, "max_output_tokens": 1024, "kv_cache_precision": "fp8"})
        for name in ("--max_input_tokens", "--max_output_tokens", "--kv_cache_precision"):
            assert name in str(caught.value)

    def test_lint_hears_what_is_only_doubtful(self) -> None:
        found = engine(release="0.18.2", options={"fuse_fp4_quant": "enable"}).findings()
        assert [(one.severity.value, one.code) for one in found] == [("warning", "unsure-option")]

    @pytest.mark.parametrize(
        "options",
        [
            {"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": 10},
            {"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": 83},
            {"speculative_decoding_mode": "medusa"},
            {"speculative_decoding_mode": "explicit_draft_tokens"},
            {"speculative_decoding_mode": "eagle"},
            {"lora_plugin": "auto", "lora_target_modules": ["attn_qkv"], "max_lora_rank": 16},
            {"kv_cache_type": "continuous", "use_paged_context_fmha": "disable"},
            {"kv_cache_type": "disabled", "use_paged_context_fmha": "disable"},
        ],
    )
    def test_what_goes_together(self, options: dict[str, Any]) -> None:
        found = [one.code for one in engine(options=options).findings()]
        assert found in ([], ["speculation-untold"])


class TestOptionsFile:
    def test_options_of_a_file_are_those_of_the_recipe(self, tmp_path: Path) -> None:
        file = tmp_path / "tensorrt_llm.yaml"
        file.write_text(
            "build:\n  max_batch_size: 4\n  use_paged_context_fmha: true\n  lora_target_modules: [attn_q]\n"
        )
        found = tensorrt_llm.options_file(file, section="build")
        assert found == {"max_batch_size": 4, "use_paged_context_fmha": True, "lora_target_modules": ["attn_q"]}
        same = {"max_batch_size": 4, "use_paged_context_fmha": "enable", "lora_target_modules": ["attn_q"]}
        plugin = {"lora_plugin": "auto"}
        assert engine(options=found | plugin).parameters_in_key() == engine(options=same | plugin).parameters_in_key()

    @pytest.mark.parametrize(
        ("text", "section", "said"),
        [
            ("- 1\n", "", "no mapping"),
            ("a: 1\n", "build", "no mapping 'build'"),
            ("a: 0.5\n", "", "not a text"),
            ("a: [\n", "", "options.yaml"),
            ("a: !!python/object:os.system {}\n", "", "options.yaml"),
        ],
    )
    def test_what_is_no_list_of_options(self, tmp_path: Path, text: str, section: str, said: str) -> None:
        file = tmp_path / "options.yaml"
        file.write_text(text)
        with pytest.raises(HermeticError) as caught:
            tensorrt_llm.options_file(file, section=section)
        assert (caught.value.domain, caught.value.reason) == (Domain.RECIPE, "options-file")
        assert said in str(caught.value)

    def test_every_mistake_has_its_line_and_field(self, tmp_path: Path, cli) -> None:
        """And a stage that gets the rest does not say it again."""
        (tmp_path / "checkpoint").mkdir()
        (tmp_path / "options.yaml").write_text(
            "build:\n  max_batch_size: 4\n  max_output_len: 1024\n  gemm_plugin: fp7\n  max_seq_len: 0.5\n"
            "  max_batch_size: 8\n"
        )
        (tmp_path / "recipe.py").write_text(
            "from hermetic import Image, Source\nfrom hermetic.llm import tensorrt_llm\n"
            "options = tensorrt_llm.options_file('options.yaml', section='build', release='1.2.1')\n"
            f"engine = tensorrt_llm.Engine(environment=Image('example.com/a:1@sha256:{'0' * 64}'), release='1.2.1',\n"
            "    checkpoint=Source('checkpoint'), options=options)\n"
        )
        found = [json.loads(line) for line in cli("lint", "recipe.py", "--json").lines]
        assert [one["message"].partition(" ")[0] for one in found] == ["options.yaml:6:"]  # the key that is there twice
        (tmp_path / "options.yaml").write_text((tmp_path / "options.yaml").read_text().rpartition("  max_batch")[0])
        result = cli("lint", "recipe.py", "--json")
        assert result.exit_code == 3
        found = [json.loads(line) for line in result.lines]
        assert [one["code"] for one in found] == ["options-file"] * 3
        said = sorted(" ".join(one["message"].split()[:2]) for one in found)
        assert said == [
            "options.yaml:3: build.max_output_len:",
            "options.yaml:4: build.gemm_plugin:",
            "options.yaml:5: build.max_seq_len:",
        ]

    def test_a_change_in_the_file_changes_the_engine(self, tmp_path: Path, cli) -> None:
        (tmp_path / "checkpoint").mkdir()
        (tmp_path / "recipe.py").write_text(
            "from hermetic import Image, Source\nfrom hermetic.llm import tensorrt_llm\n"
            f"engine = tensorrt_llm.Engine(environment=Image('example.com/a:1@sha256:{'0' * 64}'), release='1.2.1',\n"
            "    checkpoint=Source('checkpoint'), options=tensorrt_llm.options_file('options.yaml'))\n"
        )
        paths = []
        for size in (4, 4, 8):
            (tmp_path / "options.yaml").write_text(f"max_batch_size: {size}\n")
            paths.append(cli("path", "recipe.py").lines)
        assert paths[0] == paths[1] != paths[2]


class TestHarvest:
    def test_of_adapters(self) -> None:
        harvest = engine(adapters=CHECKPOINT, options={"lora_plugin": "auto"}).harvest
        assert harvest is not None
        assert "lora/*/adapter_config.json" in harvest.artifacts

    def test_of_trtllm_build(self) -> None:
        harvest = engine(quantisation="W4A8_AWQ", tokenizer=CHECKPOINT).harvest
        assert harvest is not None
        assert (harvest.folders, "timing.cache" in harvest.artifacts) == (("out",), True)
        assert harvest.config == {"pretrained_config.quantization.quant_algo": "W4A8_AWQ"}
        assert "tokenizer.json" in harvest.take["tokenizer"]
        assert "config.json" not in harvest.take["tokenizer"]

    def test_of_trtllm_bench(self) -> None:
        stage = engine(builder="trtllm-bench", model="nvidia/Qwen3-32B-NVFP4", options={"quantization": "NVFP4"})
        assert stage.harvest is not None
        left_when_it = {"hangs": "tmp/*-llm-workspace/tmp.engine", "ends": "tmp/*/*/tp_*_pp_*"}
        assert set(left_when_it.values()) < set(stage.harvest.folders)
        assert stage.options["quantization"] == "NVFP4"

    def test_a_stripped_engine_has_no_least_size(self) -> None:
        assert engine(options={"strip_plan": True}).harvest.floor == {}
