"""What converting Whisper refuses, before a script is started and after it has ended."""

from __future__ import annotations

import json
from pathlib import Path

import by_hand  # noqa: F401  # makes the programs importable
import checkpoint_half
import pytest
import trtllm_whisper
from stage_file import Refused, StageFile

from hermetic.llm.whisper import ConvertWhisper, Half
from hermetic.recipe import Image, Source

ASKED = {"release": "1.2.1", "model": "tiny.en", "dtype": "float16", "weight_only": "int8"}
TENSOR = b'{"w": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'


def halves(folder: Path, **said: object) -> Path:
    for half, architecture in trtllm_whisper.HALVES.items():
        place = folder / half
        place.mkdir(parents=True)
        config = {"architecture": architecture, "quantization": {"quant_algo": "W8A16"}} | said
        (place / "config.json").write_text(json.dumps(config))
        (place / "rank0.safetensors").write_bytes(len(TENSOR).to_bytes(8, "little") + TENSOR + b"ab")
    return folder


def test_the_script_s_words() -> None:
    words = trtllm_whisper.command(ASKED, "in", "out")
    assert words[:6] == ["--model_dir", "in", "--model_name", "tiny.en", "--output_dir", "out"]
    assert words[6:] == ["--dtype", "float16", "--use_weight_only", "--weight_only_precision", "int8"]
    assert "--use_weight_only" not in trtllm_whisper.command(ASKED | {"weight_only": ""}, "in", "out")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tiny.pt").write_bytes(b"")
    stage = StageFile("checkpoints", ASKED, {"weights": tmp_path / "in"}, tmp_path / "out")
    with pytest.raises(Refused, match=r"have no tiny\.en\.pt, .*there is tiny\.pt"):
        trtllm_whisper.build(stage)
    (tmp_path / "in" / "tiny.en.pt").write_bytes(b"")
    with pytest.raises(Refused, match=r"is it an image of TensorRT-LLM 1\.2\.1\?"):
        trtllm_whisper.build(stage)


def test_what_the_script_wrote_is_read_back(tmp_path: Path) -> None:
    trtllm_whisper.check(halves(tmp_path / "good"), ASKED)
    with pytest.raises(Refused, match=r"None was asked for, but the encoder's config\.json says 'W8A16'"):
        trtllm_whisper.check(tmp_path / "good", ASKED | {"weight_only": ""})
    with pytest.raises(Refused, match="names the architecture 'Qwen3ForCausalLM', not WhisperEncoder"):
        trtllm_whisper.check(halves(tmp_path / "other", architecture="Qwen3ForCausalLM"), ASKED)
    (tmp_path / "good" / "decoder" / "rank0.safetensors").unlink()
    with pytest.raises(Refused, match=r"rank0\.safetensors is missing"):
        trtllm_whisper.check(tmp_path / "good", ASKED)
    with pytest.raises(Refused, match="wrote no encoder"):
        trtllm_whisper.check(tmp_path, ASKED)


def test_a_half_is_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    both = halves(tmp_path / "both")
    checkpoint_half.build(StageFile("half", {"half": "decoder"}, {"checkpoint": both}, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "rank0.safetensors"]
    stage = StageFile("half", {"half": "encoder"}, {"checkpoint": both / "decoder"}, tmp_path / "none")
    with pytest.raises(Refused, match="no encoder; is it one of an encoder and a decoder"):
        checkpoint_half.build(stage)


def test_the_two_halves_have_keys_of_their_own() -> None:
    image = Image("example.com/trtllm@sha256:" + "0" * 64)
    converted = ConvertWhisper(environment=image, release="1.2.1", weights=Source(__file__))
    given = [Half(checkpoint=converted, half=half).parameters_in_key() for half in ("encoder", "decoder")]
    assert given == [{"half": "encoder"}, {"half": "decoder"}]
