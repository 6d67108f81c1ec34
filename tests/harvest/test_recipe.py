"""What a recipe may say of a harvest, and what of it is in the key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hermetic.errors import HermeticError
from hermetic.recipe import Harvest, Host, KnownSizes, LogLine, Source, Stage, Validator
from hermetic.recipe.harvest import PATIENCE

BASE = {"artifacts": ("config.json", "rank*.engine"), "complete": LogLine("done")}
CHANGES = {
    "artifacts": ("config.json", "rank*.engine", "model.cache"),
    "complete": LogLine("other"),
    "folders": ("tmp/x",),
    "take": {"model": ("tokenizer.json",)},
    "config": {"a.b": "c"},
    "floor": {"model": "0.5"},
    "settle": "3",
    "grace": "1",
    "timeout": 5,
    "silence": 7,
}


@pytest.mark.parametrize("field", sorted(Harvest.model_fields))
def test_what_decides_is_in_the_key_and_patience_is_not(field: str) -> None:
    changed = Harvest(**(BASE | {field: CHANGES[field]}))
    assert (changed.preimage() == Harvest(**BASE).preimage()) == (field in PATIENCE)


def test_kinds_of_evidence_differ() -> None:
    evidence = [LogLine("a"), LogLine("a", per_rank=False), KnownSizes({"a": 1}), Validator("a")]
    seen = [str(Harvest(artifacts=("a",), complete=item).preimage()) for item in evidence]
    assert len(set(seen)) == len(evidence)


@pytest.mark.parametrize(
    "wrong",
    [
        {"artifacts": ()},
        {"artifacts": ("../x",)},
        {"artifacts": ("/x",)},
        {"artifacts": ("rank0.engine",)},
        {"folders": ("in/x",)},
        {"settle": 2},
        {"settle": "-1"},
        {"settle": "soon"},
        {"take": {"model": ("config.json",)}},
        {"timeout": -1},
        {"unknown": 1},
    ],
)
def test_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Harvest(**(BASE | wrong))


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(ValidationError):
        LogLine("(")


def test_a_role_that_is_no_input(tmp_path) -> None:
    class Engine(Stage):
        kind = "test.engine"
        model: Source

    (tmp_path / "m").touch()
    fields = {"environment": Host(paths=("/bin/true",)), "model": Source(tmp_path / "m")}
    assert Engine(**fields, harvest=Harvest(**BASE, floor={"model": "1"})).harvest is not None
    with pytest.raises(HermeticError) as caught:
        Engine(**fields, harvest=Harvest(**BASE, floor={"modle": "1"}))
    assert caught.value.reason == "harvest-role"
