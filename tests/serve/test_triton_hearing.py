"""Repositories of Whisper, and of engines that draft tokens: what they say, and a real Triton that hears.

NVIDIA's backend can't be had here: a STAND-IN for it (`hermetic.testing.triton`) answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_triton_kinds import engine, of, parsed

from hermetic.cli import serve_proxy
from hermetic.errors import Domain, HermeticError

sys.path.append(str(Path(__file__).parents[1] / "trtllm"))
from stage_file import Refused
from triton_checks import problems
from whisper_kit import ENGLISH, halves


def whisper(folder: Path, release: str = "1.2.1", size: int = 51866, dtype: str = "float16") -> Path:
    halves(folder, size, version=release)
    for half, batch in (("encoder", 8), ("decoder", 6)):
        path = folder / half / "config.json"
        config = json.loads(path.read_text())
        config["build_config"]["max_batch_size"] = batch
        config["pretrained_config"] |= {"dtype": dtype, "quantization": {"quant_algo": "W8A16"}}
        path.write_text(json.dumps(config))
    return folder


def asked(folder: Path, **changes: Any) -> Any:
    return of(folder, **{"bls": False} | changes)


class TestWhisper:
    def test_two_models(self, tmp_path: Path) -> None:
        found = asked(whisper(tmp_path))
        assert [model.name for model in found.models] == ["whisper_bls", "tensorrt_llm"]
        assert found.limits == {"max_batch_size": 6, "max_seq_len": 114, "max_input_len": 14}
        assert (found.kind, found.quantisation, found.world) == ("tensorrt-llm", "W8A16", 1)
        assert list(problems(found.models)) == []

    def test_what_each_is_told(self, tmp_path: Path) -> None:
        config = parsed(asked(whisper(tmp_path), language="de"))
        said = {name: value.string_value for name, value in config["tensorrt_llm"].parameters.items()}
        assert said["gpt_model_path"] == "/build/in/engine/decoder"
        assert said["encoder_model_path"] == "/build/in/engine/encoder"
        assert (said["cross_kv_cache_fraction"], said["enable_kv_cache_reuse"]) == ("0.5", "false")
        assert "guided_decoding_backend" not in said
        said = {name: value.string_value for name, value in config["whisper_bls"].parameters.items()}
        assert said["text_prefix"] == "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>"
        assert (said["n_mels"], said["vocab_size"], said["encoder_dtype"]) == ("128", "51866", "float16")

    def test_the_engine_s_model_takes_sound(self, tmp_path: Path) -> None:
        model = parsed(asked(whisper(tmp_path)))["tensorrt_llm"]
        inputs = {tensor.name: tensor for tensor in model.input}
        assert inputs["input_ids"].optional
        assert not inputs["input_lengths"].optional
        features = inputs["encoder_input_features"]
        assert (features.data_type, list(features.dims), features.allow_ragged_batch) == (10, [-1, -1], True)  # FP16
        assert {"encoder_output_lengths", "decoder_input_ids", "decoder_input_lengths"} <= set(inputs)

    def test_of_english_alone_no_language_is_said(self, tmp_path: Path) -> None:
        config = parsed(asked(whisper(tmp_path, size=ENGLISH)))["whisper_bls"]
        assert config.parameters["text_prefix"].string_value == "<|startoftranscript|><|notimestamps|>"

    @pytest.mark.parametrize(
        ("made", "changes", "said"),
        [
            ({"release": "0.14.0"}, {}, r"of TensorRT-LLM 0\.14\.0, and sound is served from 0\.15 on"),
            ({"dtype": "bfloat16"}, {}, "takes bfloat16, and sound can be served as float16, float32"),
            ({}, {"bls": True}, "bls is nothing that"),
            ({}, {"max_batch_size": 8}, "max_batch_size is 8, and the engine was made for 6"),
        ],
    )
    def test_refusals(self, tmp_path: Path, made: Any, changes: Any, said: str) -> None:
        with pytest.raises(Refused, match=said):
            asked(whisper(tmp_path, **made), **changes)


class TestDrafts:
    @pytest.mark.parametrize(
        ("told", "said"),
        [
            (
                {"mode": "lookahead_decoding", "window": 5, "ngram": 4, "verification": 3},
                {
                    "decoding_mode": "lookahead",
                    "lookahead_window_size": "5",
                    "lookahead_ngram_size": "4",
                    "lookahead_verification_set_size": "3",
                },
            ),
            (
                {"mode": "medusa", "choices": [[0], [0, 1]]},
                {"decoding_mode": "medusa", "medusa_choices": "{0}, {0, 1}"},
            ),
            ({"mode": "eagle", "choices": [[2]]}, {"decoding_mode": "eagle", "eagle_choices": "{2}"}),
        ],
        ids=["lookahead", "medusa", "eagle"],
    )
    def test_the_backend_is_told_how(self, tmp_path: Path, told: Any, said: dict[str, str]) -> None:
        config = parsed(of(engine(tmp_path), speculation=told))["tensorrt_llm"]
        found = {name: value.string_value for name, value in config.parameters.items()}
        assert {name: found.get(name) for name in said} == said

    def test_what_a_release_can_not_be_told(self, tmp_path: Path) -> None:
        told = {"mode": "lookahead_decoding", "window": 5, "ngram": 4, "verification": 3}
        with pytest.raises(Refused, match=r"came with 0\.19"):
            of(engine(tmp_path, release="0.18.0"), speculation=told)
        with pytest.raises(Refused, match="not to let one grow"):
            of(engine(tmp_path), speculation={"mode": "eagle", "choices": [], "dynamic_top_k": 10})


def test_the_api_for_text_refuses_what_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "read_deployment", lambda _: SimpleNamespace(models=("whisper_bls",)))
    found: Any = SimpleNamespace(subject=SimpleNamespace(repository="", name="ears"))
    with pytest.raises(HermeticError) as caught:
        serve_proxy.proxy_of(found, "", {"model_id": ""})
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "speech-not-here")
