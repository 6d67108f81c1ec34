"""The smoke test and what answers ``hermetic run``, against the stand-in's runtime, outside a sandbox."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from smoke_kit import PROGRAMS, Kit


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


class TestGood:
    def test_what_is_reported(self, kit: Kit) -> None:
        kit.engine()
        ended = kit.smoke()
        assert ended.returncode == 0, ended.stderr
        (answer,) = kit.report["answers"]
        assert answer["text"].endswith("an answer of the STAND-IN.")
        assert (answer["end"], answer["repetition"]) == ("end token", 0)
        assert kit.report["guided"]["answer"] == {"city": "", "inhabitants": 0}
        assert (kit.report["prefill"], kit.report["tensorrt_llm"]) == ({"tokens": 255}, "1.2.1")

    def test_the_same_engine_gives_the_same_report(self, kit: Kit) -> None:
        kit.engine()
        kit.smoke()
        first = kit.report
        kit.smoke()
        assert kit.report == first

    def test_of_an_engine_of_two_ranks_one_asks(self, kit: Kit) -> None:
        kit.engine(ranks=2)
        ended = kit.smoke()
        assert ended.returncode == 0, ended.stderr
        assert len(kit.report["answers"]) == 1

    def test_golden_answers_may_differ_by_the_tolerance(self, kit: Kit) -> None:
        kit.engine()
        kit.smoke()
        text = kit.report["answers"][0]["text"]
        ended = kit.smoke(golden={"Who are you?": text})
        assert ended.returncode == 0, ended.stderr
        assert kit.report["answers"][0]["golden"]["distance"] == "0.00"
        other = kit.smoke(golden={"Who are you?": text.replace("answer", "anser")})
        assert other.returncode == 1
        assert "instead of" in other.stderr
        assert (
            kit.smoke(golden={"Who are you?": text.replace("answer", "anser")}, golden_tolerance="0.1").returncode == 0
        )


class TestBad:
    @pytest.mark.parametrize(
        ("behaviour", "said"),
        [
            ("repeats", "goes round in circles of 10 tokens"),
            ("wanders", "answered differently the second time"),
            ("empty", "has an empty answer"),
            ("foreign", "tokens outside the vocabulary of 512"),
            ("cut", "stops after 5 tokens without an end token"),
            ("no-json", "the answer is not JSON"),
            ("error", "the executor refused the prompt"),
        ],
    )
    def test_an_engine_that_answers_badly(self, kit: Kit, behaviour: str, said: str) -> None:
        kit.engine()
        ended = kit.smoke(behaviour)
        assert ended.returncode == 1
        assert said in ended.stderr
        assert not (kit.folder / "out" / "report.json").exists()

    def test_an_engine_that_crashes(self, kit: Kit) -> None:
        kit.engine()
        assert kit.smoke("crash").returncode == -signal.SIGSEGV

    def test_a_repeating_engine_may_be_wanted(self, kit: Kit) -> None:
        kit.engine()
        assert kit.smoke("repeats", allow_repetition=True, json_schema="").returncode == 0

    def test_a_rank_that_is_not_there(self, kit: Kit) -> None:
        kit.engine(ranks=2)
        (kit.folder / "engine" / "rank1.engine").unlink()
        assert "the engine lacks rank1.engine" in kit.smoke().stderr

    def test_an_engine_without_a_tokenizer(self, kit: Kit) -> None:
        kit.engine()
        (kit.folder / "engine" / "tokenizer.json").unlink()
        assert "no tokenizer can be loaded" in kit.smoke().stderr

    def test_an_answer_that_json_does_not_fit_into(self, kit: Kit) -> None:
        kit.engine()
        assert "cut off at 5 tokens" in kit.smoke(max_json_tokens=5).stderr


class TestPyTorch:
    YAML = (
        'backend: "pytorch"\nguided_decoding_backend: "xgrammar"\nkv_cache_config:\n  free_gpu_memory_fraction: 0.85\n'
    )

    def test_answers_and_json(self, kit: Kit) -> None:
        kit.checkpoint(self.YAML + "max_seq_len: 128\ntriton_config:\n  decoupled: true\n")
        ended = kit.smoke()
        assert ended.returncode == 0, ended.stderr
        assert kit.report["prefill"] == {"tokens": 127}
        assert kit.report["guided"]["answer"] == {"city": "", "inhabitants": 0}

    @pytest.mark.parametrize(("behaviour", "said"), [("repeats", "in circles"), ("wanders", "differently")])
    def test_bad_answers(self, kit: Kit, behaviour: str, said: str) -> None:
        kit.checkpoint(self.YAML)
        assert said in kit.smoke(behaviour).stderr

    def test_json_of_a_model_that_was_not_told(self, kit: Kit) -> None:
        kit.checkpoint('backend: "pytorch"\n')
        assert "names no guided_decoding_backend" in kit.smoke().stderr

    def test_it_answers(self, kit: Kit) -> None:
        kit.checkpoint(self.YAML)
        ended = kit.run("trtllm_chat.py", {"prompt": "Hello"})
        assert ended.stdout.endswith("an answer of the STAND-IN.")


class TestChat:
    def test_only_the_answer_is_on_stdout(self, kit: Kit) -> None:
        kit.engine()
        ended = kit.run("trtllm_chat.py", {"prompt": "Hello", "max_new_tokens": 100})
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.endswith(": an answer of the STAND-IN.")
        assert ended.stdout.count("STAND-IN") == 1
        assert "STAND-IN for the runtime" in ended.stderr

    def test_of_two_ranks_one_answers(self, kit: Kit) -> None:
        kit.engine(ranks=2)
        assert kit.run("trtllm_chat.py", {"prompt": "Hello"}).stdout.count("an answer of the STAND-IN.") == 1

    def test_a_prompt_that_is_too_long(self, kit: Kit) -> None:
        kit.engine(max_seq_len=32)
        assert "the engine takes 32" in kit.run("trtllm_chat.py", {"prompt": "Hello" * 20}).stderr

    def test_a_crash_is_no_answer(self, kit: Kit) -> None:
        kit.engine()
        assert kit.run("trtllm_chat.py", {"prompt": "Hello"}, "crash").returncode == -signal.SIGSEGV


def test_model_yaml_is_read_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROGRAMS))
    from model_yaml import read_yaml, yaml_lines

    settings = {"a": "x: y", "b": {"c": {"d": [1, 2]}, "e": 0.5}, "f": True, "g": {}}
    assert read_yaml("\n".join(yaml_lines(settings))) == settings
