"""Whisper's sound and words, and the programs that ask an engine what it hears, against the stand-in's runtime."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import by_hand  # noqa: F401  # makes the programs importable
import numpy as np
import pytest
from smoke_kit import Kit
from stage_file import Refused, StageFile
from trtllm_whisper_engine import build as join
from trtllm_whisper_smoke import words
from whisper_kit import BYTES, ENGLISH, GERMAN, halves, vocabulary, wav
from whisper_sound import NoSound, log_mel, mel_filters, pieces, read_wav
from whisper_words import Unknown, Words

from hermetic.errors import HermeticError
from hermetic.llm.inspection import inspect
from hermetic.llm.tensorrt_llm import Engine
from hermetic.llm.whisper import Whisper
from hermetic.recipe import Host, Source

ASKED = {"language": "en", "task": "transcribe", "tolerance": "0.2", "allow_repetition": False}
#: The first word of what the stand-in hears is made of the sound.
SAID = "12345678: an answer of the stand-in"


class TestSound:
    @pytest.mark.parametrize("width", [1, 2, 3, 4])
    @pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
    def test_any_pcm_file_is_the_same_tone(self, tmp_path: Path, width: int, rate: int, channels: int) -> None:
        samples = read_wav(wav(tmp_path / "a.wav", 1, rate, width, channels))
        assert (len(samples), samples.dtype) == (16000, np.float32)
        tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) / 2
        assert np.abs(samples - tone)[500:-500].max() < 0.02

    @pytest.mark.parametrize("content", [b"", b"RIFF", b"fLaC" + bytes(100)])
    def test_what_is_no_wav_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(NoSound, match=r"a\.wav is no WAV file"):
            read_wav(tmp_path / "a.wav")
        wav(tmp_path / "b.wav", 0)
        with pytest.raises(NoSound, match="has no sound"):
            read_wav(tmp_path / "b.wav")

    def test_a_long_recording_is_cut_where_it_is_quiet(self) -> None:
        samples = np.ones(40 * 16000, np.float32)
        samples[27 * 16000 : 28 * 16000] = 0
        found = list(pieces(samples))
        assert np.array_equal(np.concatenate(found), samples)
        assert 27 * 16000 <= len(found[0]) <= 28 * 16000

    @pytest.mark.parametrize(
        ("bands", "peaks"),
        [
            (80, {0: (1, 0.024862595), 40: (43, 0.014735566), 79: (192, 0.003164712)}),
            (128, {0: (1, 0.012373987), 40: (24, 0.040376365), 127: (195, 0.005041602)}),
        ],
    )
    def test_filters_are_openai_s(self, bands: int, peaks: dict[int, tuple[int, float]]) -> None:
        """Bin and height of some peaks, read off whisper/assets/mel_filters.npz of openai/whisper at c0d2f624."""
        filters = mel_filters(bands)
        assert filters.shape == (bands, 201)
        for band, (place, height) in peaks.items():
            assert (filters[band].argmax(), filters[band].max()) == (place, pytest.approx(height, abs=1e-8))

    def test_log_mel_of_a_tone_and_of_silence(self, tmp_path: Path) -> None:
        found = log_mel(read_wav(wav(tmp_path / "a.wav")), 128)
        assert (found.shape, found.dtype) == ((3000, 128), np.float32)
        loudest = found[50].argmax()
        assert mel_filters(128)[loudest].argmax() == 11  # bins are 40 Hz apart
        assert found.max() - found.min() == pytest.approx(2)  # eight powers of ten, four to one
        assert found[200:].max() == found.min()
        assert np.all(log_mel(np.zeros(100), 80) == pytest.approx(-1.5))


class TestWords:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "multilingual.tiktoken").write_bytes(vocabulary())
        return tmp_path

    def test_the_numbers_that_steer(self, folder: Path) -> None:
        """As OpenAI's tokenizer gives them, of large-v2 and large-v3."""
        assert Words(folder, 51865).start("en", "transcribe") == [50258, 50259, 50359, 50363]
        assert Words(folder, 51866).start("de", "translate") == [50258, 50261, 50359, 50364]

    def test_of_english_alone(self, tmp_path: Path) -> None:
        (tmp_path / "gpt2.tiktoken").write_bytes(vocabulary("gpt2.tiktoken"))
        found = Words(tmp_path, ENGLISH)
        assert (found.end, found.start("en", "transcribe")) == (50256, [50257, 50362])

    def test_text_is_without_what_steers(self, folder: Path) -> None:
        tokens = [BYTES.index(byte) for byte in " Grüße".encode()]
        found = Words(folder, GERMAN)
        assert found.text([50258, *tokens, found.end, 51000]) == "Grüße"

    def test_refusals(self, folder: Path) -> None:
        with pytest.raises(Unknown, match=r"no <\|xx\|>"):
            Words(folder, GERMAN).start("xx", "transcribe")
        with pytest.raises(Unknown, match="no model of 32000 is made with it"):
            Words(folder, 32000)
        (folder / "multilingual.tiktoken").write_bytes(b"IQ== 0\nIg== 2\n")
        with pytest.raises(Unknown, match="leaves out some numbers"):
            Words(folder, GERMAN)
        (folder / "multilingual.tiktoken").unlink()
        with pytest.raises(Unknown, match="no vocabulary"):
            Words(folder, GERMAN)


class TestEngine:
    def stage(self, folder: Path, **said: object) -> StageFile:
        halves(folder, **said)
        (folder / "words").mkdir()
        (folder / "words" / "multilingual.tiktoken").write_bytes(vocabulary())
        inputs = {"encoder": folder / "encoder", "decoder": folder / "decoder", "vocabulary": folder / "words"}
        return StageFile("engine", {}, inputs, folder / "out")

    def test_both_halves_and_the_vocabulary(self, tmp_path: Path) -> None:
        join(self.stage(tmp_path))
        found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
        assert found == [
            *(f"{half}/{name}" for half in ("decoder", "encoder") for name in ("config.json", "rank0.engine")),
            "multilingual.tiktoken",
        ]

    def test_what_inspect_says(self, tmp_path: Path) -> None:
        join(self.stage(tmp_path))
        found = inspect(tmp_path / "out")
        assert (found.kind, found.problems) == ("tensorrt-llm whisper", ())
        assert found.facts["decoder"]["limits"]["max_seq_len"] == 114
        assert (found.facts["encoder"]["tensorrt_llm"], found.facts["vocabulary"]) == ("1.2.1", "multilingual.tiktoken")
        (tmp_path / "out" / "encoder" / "rank0.engine").unlink()
        assert inspect(tmp_path / "out").problems == ("encoder: rank0.engine is missing",)

    def test_halves_that_do_not_fit(self, tmp_path: Path) -> None:
        stage = self.stage(tmp_path)
        swapped = StageFile("", {}, {**stage.inputs, "encoder": stage.inputs["decoder"]}, stage.out)
        with pytest.raises(Refused, match=r"the encoder's config\.json names the architecture 'DecoderModel'"):
            join(swapped)
        config = tmp_path / "encoder" / "config.json"
        config.write_text(config.read_text().replace("1.2.1", "1.2.0"))
        with pytest.raises(Refused, match=r"the encoder is of TensorRT-LLM 1\.2\.0, the decoder of 1\.2\.1"):
            join(stage)

    def test_a_vocabulary_of_another_model(self, tmp_path: Path) -> None:
        stage = self.stage(tmp_path)
        config = tmp_path / "decoder" / "config.json"
        config.write_text(config.read_text().replace(str(GERMAN), "51000"))
        with pytest.raises(Refused, match=r"does not fit the decoder: .* no model of 51000"):
            join(stage)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    made = Kit(tmp_path)
    (halves(tmp_path / "engine") / "multilingual.tiktoken").write_bytes(vocabulary())
    wav(tmp_path / "sound")
    return made


Ended = subprocess.CompletedProcess[str]


def smoke(kit: Kit, behaviour: str = "", **changes: Any) -> Ended:
    asked = ASKED | {"transcript": SAID} | changes
    return kit.run("trtllm_whisper_smoke.py", asked, behaviour, roles=("engine", "sound"))


class TestSmoke:
    def test_what_is_reported(self, kit: Kit) -> None:
        ended = smoke(kit)
        assert ended.returncode == 0, ended.stderr
        assert kit.report["text"].endswith(": an answer of the STAND-IN.")
        assert (kit.report["pieces"], kit.report["golden"]) == (1, {"word_error_rate": "0.14", "allowed": "0.2"})
        assert smoke(kit, transcript=kit.report["text"].upper(), tolerance="0").returncode == 0

    def test_another_sound_is_another_transcript(self, kit: Kit) -> None:
        smoke(kit)
        first = kit.report["text"]
        wav(kit.folder / "sound", 35)
        smoke(kit, tolerance="2")
        assert kit.report["pieces"] == 2
        assert first.split()[0] not in kit.report["text"]

    @pytest.mark.parametrize(
        ("behaviour", "said"),
        [
            ("wanders", "and the first time it was"),
            ("empty", "the transcript is empty"),
            ("foreign", "tokens outside the vocabulary of 51866"),
            ("cut", "was cut off at the engine's 114 tokens"),
            ("repeats", "goes round in circles of 10 tokens"),
        ],
    )
    def test_an_engine_that_hears_badly(self, kit: Kit, behaviour: str, said: str) -> None:
        ended = smoke(kit, behaviour)
        assert ended.returncode == 1
        assert said in ended.stderr
        assert not (kit.folder / "out" / "report.json").exists()

    def test_another_transcript(self, kit: Kit) -> None:
        assert "word error rate 3.50, allowed 0.2" in smoke(kit, transcript="something else").stderr
        assert "has no words" in smoke(kit, transcript="…").stderr

    def test_an_engine_for_less_sound(self, kit: Kit) -> None:
        config = kit.folder / "engine" / "decoder" / "config.json"
        config.write_text(config.read_text().replace("3000", "1500"))
        assert "not built for 3000 frames" in smoke(kit).stderr

    def test_a_folder_has_one_recording(self, kit: Kit) -> None:
        (kit.folder / "sound").unlink()
        (kit.folder / "sound").mkdir()
        assert "should be one WAV file, and there are 0" in smoke(kit).stderr
        wav(kit.folder / "sound" / "a.wav")
        assert smoke(kit).returncode == 0


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words("Don\u2019t stop -- ÄRGER, 3 Äpfel!") == ["don't", "stop", "ärger", "3", "äpfel"]


class TestTranscribe:
    def test_only_the_transcript_is_on_stdout(self, kit: Kit) -> None:
        ended = kit.run("trtllm_transcribe.py", ASKED, roles=("engine", "sound"))
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.endswith(": an answer of the STAND-IN.")
        assert ended.stdout.count("STAND-IN") == 1

    def test_what_is_cut_off_is_said(self, kit: Kit) -> None:
        ended = kit.run("trtllm_transcribe.py", ASKED, "cut", roles=("engine", "sound"))
        assert (ended.returncode, "was cut off" in ended.stderr) == (1, True)
        assert ended.stdout

    def test_what_can_not_be_heard(self, kit: Kit) -> None:
        (kit.folder / "sound").write_bytes(b"nothing")
        assert "no WAV file" in kit.run("trtllm_transcribe.py", ASKED, roles=("engine", "sound")).stderr
        (kit.folder / "stage.json").unlink()
        ended = kit.run("trtllm_transcribe.py", ASKED | {"language": "xx"}, roles=("engine", "sound"))
        assert json.loads((kit.folder / "stage.json").read_text())["parameters"]["language"] == "xx"
        assert "the model has no <|xx|>" in ended.stderr


class TestRecipe:
    def half(self, release: str = "1.2.1", **options: int) -> Engine:
        given = {"environment": Host(paths=("/bin/sh",)), "checkpoint": Source(__file__)}
        return Engine(release=release, options={"max_encoder_input_len": 3000, **options}, **given)

    def test_what_is_said_of_the_language_is_no_other_engine(self) -> None:
        encoder, decoder = self.half(max_input_len=3000, max_seq_len=3000), self.half()
        german = Whisper(encoder=encoder, decoder=decoder, vocabulary=Source(__file__), language="de")
        assert german.parameters_in_key() == {}
        assert german.run_parameters() == {"language": "de", "task": "transcribe"}

    @pytest.mark.parametrize(
        ("encoder", "decoder", "said"),
        [
            ({"max_input_len": 1500}, {}, "max_input_len is 1500, and 30 seconds of sound are 3000 frames"),
            ({}, {"max_encoder_input_len": 1500}, "max_encoder_input_len is 1500"),
            ({"release": "1.2.0"}, {}, r"the encoder is of 1\.2\.0, the decoder of 1\.2\.1"),
            ({"release": "0.13.0"}, {"release": "0.13.0"}, r"taken by TensorRT-LLM 0\.15\.0 and later"),
        ],
    )
    def test_halves_that_do_not_hear(self, encoder: Any, decoder: Any, said: str) -> None:
        halves = self.half(**{"max_input_len": 3000, "max_seq_len": 3000} | encoder), self.half(**decoder)
        with pytest.raises(HermeticError, match=said):
            Whisper(encoder=halves[0], decoder=halves[1], vocabulary=Source(__file__))
