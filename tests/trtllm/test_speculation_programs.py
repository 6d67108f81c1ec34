"""Engines that draft tokens, as recipes say it and as the programs run them, against the stand-in's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from smoke_kit import Kit

from hermetic.errors import Domain, HermeticError
from hermetic.llm.smoke import Smoke
from hermetic.llm.speculation import Eagle, Lookahead, Medusa
from hermetic.llm.tensorrt_llm import Engine
from hermetic.recipe import Host, Source

LOOKAHEAD = Lookahead(window=7, ngram=7, verification=7)
MEDUSA = Medusa(choices=[[0], [0, 0], [1]])
#: By what is told: the number in config.json, and the longest draft.
BUILT = [(LOOKAHEAD, 8, 83), (MEDUSA, 4, 63), (Eagle(choices=[[0], [1]]), 32, 63), (Eagle(dynamic_top_k=10), 32, 63)]
WITHOUT_JSON = {"json_schema": ""}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


class TestItself:
    @pytest.mark.parametrize(("told", "mode", "longest"), BUILT, ids=["lookahead", "medusa", "eagle", "eagle-2"])
    def test_what_is_drafted_is_counted(self, kit: Kit, told: Lookahead, mode: int, longest: int) -> None:
        kit.engine(speculative_decoding_mode=mode, max_draft_len=longest)
        ended = kit.smoke(**WITHOUT_JSON, speculation=told.told())
        assert ended.returncode == 0, ended.stderr
        (answer,) = kit.report["answers"]
        assert answer["text"].endswith("an answer of the STAND-IN.")
        assert kit.report["drafts"] == {"steps": 19, "drafted": 72, "accepted": 18, "acceptance": "0.25"}
        assert ("without_drafts" in answer) == (mode == 8)

    def test_one_that_is_not_told_how(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=8, max_draft_len=83)
        assert "built for lookahead_decoding, and the recipe does not say how" in kit.smoke(**WITHOUT_JSON).stderr
        assert "give it speculation=" in kit.run("trtllm_chat.py", {"prompt": "Hello"}).stderr

    def test_what_no_one_counted_is_not_there(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=8, max_draft_len=83)
        assert kit.smoke("uncounted", **WITHOUT_JSON, speculation=LOOKAHEAD.told()).returncode == 0
        assert "drafts" not in kit.report
        assert "drafts" not in kit.report["answers"][0]

    def test_drafts_that_change_the_answer(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=8, max_draft_len=83)
        ended = kit.smoke("drifts", **WITHOUT_JSON, speculation=LOOKAHEAD.told())
        assert "that it has without drafts: 0.03 of it, allowed 0" in ended.stderr
        tolerant = kit.smoke("drifts", **WITHOUT_JSON, speculation=LOOKAHEAD.told(), golden_tolerance="0.05")
        assert tolerant.returncode == 0, tolerant.stderr
        assert kit.report["answers"][0]["without_drafts"] == {"distance": "0.03", "allowed": "0.05"}

    def test_golden_answers_hold(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=4, max_draft_len=63)
        kit.smoke(**WITHOUT_JSON, speculation=MEDUSA.told())
        golden = {"Who are you?": kit.report["answers"][0]["text"]}
        assert kit.smoke(**WITHOUT_JSON, speculation=MEDUSA.told(), golden=golden).returncode == 0
        drifted = kit.smoke("drifts", **WITHOUT_JSON, speculation=MEDUSA.told(), golden=golden)
        assert "instead of" in drifted.stderr

    def test_a_release_without_such_decoding(self, kit: Kit) -> None:
        names = kit.site / "tensorrt_llm/bindings/executor.py"
        names.write_text(names.read_text() + "\ndel EagleConfig\n")
        kit.engine(speculative_decoding_mode=32, max_draft_len=63)
        ended = kit.smoke(**WITHOUT_JSON, speculation=Eagle(dynamic_top_k=10).told())
        assert "cannot be told to decode with eagle" in ended.stderr

    def test_it_can_be_asked(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=8, max_draft_len=83)
        ended = kit.run("trtllm_chat.py", {"prompt": "Hello", "speculation": LOOKAHEAD.told()})
        assert ended.stdout.endswith("an answer of the STAND-IN."), ended.stderr

    def test_a_request_leaves_room_for_drafts(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=8, max_draft_len=83, max_seq_len=115)
        asked = {"prompt": "Hello" * 20, "speculation": LOOKAHEAD.told()}
        assert "the engine takes 32" in kit.run("trtllm_chat.py", asked).stderr


class TestPair:
    ROLES = ("engine", "draft")

    def made(self, kit: Kit) -> Kit:
        kit.engine(speculative_decoding_mode=2, max_draft_len=10)
        kit.engine(name="draft")
        return kit

    def test_it_answers_as_it_does_alone(self, kit: Kit) -> None:
        self.made(kit)
        ended = kit.smoke(roles=self.ROLES, **WITHOUT_JSON, draft_tokens=4)
        assert ended.returncode == 0, ended.stderr
        (answer,) = kit.report["answers"]
        assert answer["without_drafts"]["distance"] == "0.00"
        drafts = kit.report["drafts"]
        assert 0 < drafts["accepted"] < drafts["drafted"]  # the eight digits that they begin with are different

    def test_drafts_that_change_the_answer(self, kit: Kit) -> None:
        ended = self.made(kit).smoke("drifts", roles=self.ROLES, **WITHOUT_JSON, draft_tokens=4)
        assert "that it has without drafts" in ended.stderr

    def test_several_ranks(self, kit: Kit) -> None:
        kit.engine(speculative_decoding_mode=2, max_draft_len=10)
        kit.engine(ranks=2, name="draft")
        ended = kit.smoke(roles=self.ROLES, **WITHOUT_JSON, draft_tokens=4)
        assert "several ranks cannot be tested with drafts" in ended.stderr


class TestRecipe:
    def engine(self, mode: str | None = None, length: int = 0, **fields: Any) -> Engine:
        options: dict[str, Any] = {"speculative_decoding_mode": mode, "max_draft_len": length} if mode else {}
        given = {"environment": Host(paths=("/bin/sh",)), "checkpoint": Source(__file__), "release": "1.2.1"}
        return Engine(**given, options=options, **fields)

    def test_how_it_drafts_is_no_other_engine(self) -> None:
        plain, told = self.engine("medusa", 63), self.engine("medusa", 63, speculation=MEDUSA)
        assert plain.parameters_in_key() == told.parameters_in_key()
        assert plain.parameters_in_full() == told.parameters_in_full()
        assert told.run_parameters() == {"speculation": {"mode": "medusa", "choices": [[0], [0, 0], [1]]}}

    def test_how_it_drafts_is_another_test(self) -> None:
        first, second = (
            Smoke(engine=self.engine("medusa", 63, speculation=Medusa(choices=choices))).parameters_in_key()
            for choices in ([[0]], [[0], [1]])
        )
        assert first["speculation"] != second["speculation"]
        assert "json_schema" not in first

    @pytest.mark.parametrize(
        ("mode", "length", "told", "said"),
        [
            ("lookahead_decoding", 61, LOOKAHEAD, "drafts 83 tokens, and max_draft_len is 61"),
            ("eagle", 63, MEDUSA, "is for speculative_decoding_mode medusa, and the engine's is eagle"),
            (None, 0, MEDUSA, "the engine's is None"),
        ],
    )
    def test_what_does_not_fit_the_engine(self, mode: str | None, length: int, told: Any, said: str) -> None:
        with pytest.raises(HermeticError, match=said) as caught:
            self.engine(mode, length, speculation=told)
        assert caught.value.domain == Domain.RECIPE

    def test_one_that_nobody_can_ask_is_noted(self) -> None:
        (found,) = (one for one in self.engine("medusa", 63).findings() if one.code == "speculation-untold")
        assert (found.severity.value, found.hint) == ("note", "speculation=Medusa(...)")
        told = self.engine("medusa", 63, speculation=MEDUSA)
        assert "speculation-untold" not in {one.code for one in told.findings()}

    @pytest.mark.parametrize("mode", ["lookahead_decoding", "medusa", "eagle"])
    def test_one_that_is_not_told_how_is_not_tested(self, mode: str) -> None:
        with pytest.raises(HermeticError, match=r"told how when it runs: speculation=(Lookahead|Medusa|Eagle)\("):
            Smoke(engine=self.engine(mode, 83))

    def test_what_needs_nothing_is_tested(self) -> None:
        for mode in ("draft_tokens_external", "explicit_draft_tokens"):
            assert Smoke(engine=self.engine(mode, 10)).json_schema == ""

    def test_an_engine_that_drafts_for_another(self) -> None:
        target, draft = self.engine("draft_tokens_external", 10), self.engine()
        smoke = Smoke(engine=target, draft=draft)
        assert smoke.inputs_by_role()["draft"] is draft
        with pytest.raises(HermeticError, match="are for speculative_decoding_mode draft_tokens_external"):
            Smoke(engine=draft, draft=draft)
        with pytest.raises(HermeticError, match="draft_tokens is 11, and the engine takes 10"):
            Smoke(engine=target, draft=draft, draft_tokens=11)

    @pytest.mark.parametrize("make", [lambda: Medusa(choices=[]), lambda: Medusa(choices=[[0], [0]]), Eagle])
    def test_trees_that_are_none(self, make: Any) -> None:
        with pytest.raises(ValidationError):
            make()
