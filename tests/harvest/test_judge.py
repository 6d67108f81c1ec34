"""The judge on snapshots made by hand: one doubt each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hermetic.harvest.evidence import Content, Examination, File, Glance
from hermetic.harvest.judge import mismatches, reasons_against
from hermetic.recipe.harvest import Harvest, KnownSizes, LogLine

SECOND = 10**9
LINE = Harvest(artifacts=("config.json", "rank*.engine"), complete=LogLine("done"))


def seen(*engines: File, lines: tuple[int, ...] = (), mapping: object = None, **more: object) -> Examination:
    files = (File("config.json", 1, 9, 10, 0), *engines)
    contents = {file.name: Content() for file in engines}
    mapping = {"world_size": len(engines)} if mapping is None else mapping
    document = {"pretrained_config": {"mapping": mapping}}
    if isinstance(mapping, dict) and "tp_size" not in mapping:
        mapping["tp_size"] = mapping.get("world_size", 1)
    contents["config.json"] = Content(proven=True, document=document)
    return Examination(Glance(10, 9, "out", files, lines=lines), contents, **more)  # type: ignore[arg-type]


def engine(rank: int = 0, changed: int = 5, size: int = 100) -> File:
    return File(f"rank{rank}.engine", 1, 20 + rank, size, changed * SECOND)


def test_whole() -> None:
    assert reasons_against(LINE, seen(engine(), lines=(6 * SECOND,))) == []


def test_every_engine_needs_a_line_of_its_own_after_it() -> None:
    """A line proves one engine, the newest lines the newest engines; which printed which is not known."""
    first, second = engine(0, 5), engine(1, 8)
    assert reasons_against(LINE, seen(first, second, lines=(6 * SECOND, 9 * SECOND))) == []
    assert reasons_against(LINE, seen(second, first, lines=(9 * SECOND, 9 * SECOND))) == []
    assert "1 of 2 lines" in reasons_against(LINE, seen(first, second, lines=(9 * SECOND,)))[0]
    assert "was written after the line" in reasons_against(LINE, seen(first, second, lines=(6 * SECOND,) * 2))[0]


def test_one_line_for_all() -> None:
    once = LINE.model_copy(update={"complete": LogLine("done", per_rank=False)})
    pair = (engine(0, 5), engine(1, 8))
    assert reasons_against(once, seen(*pair, lines=(9 * SECOND,))) == []
    assert "rank1.engine" in reasons_against(once, seen(*pair, lines=(6 * SECOND,)))[0]


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"world_size": 2, "tp_size": 2}, "rank1.engine is not there"),
        ({"world_size": 2, "tp_size": 1, "pp_size": 2}, "rank1.engine is not there"),
        ({"tp_size": 2, "pp_size": 1}, "rank1.engine is not there"),
        ({"world_size": 2, "tp_size": 1}, "world_size is 2"),
        ({"world_size": "2", "tp_size": 1}, "no whole numbers"),
        ({"world_size": True, "tp_size": 1}, "no whole numbers"),
        ([], "has no pretrained_config.mapping"),
    ],
)
def test_ranks(mapping: object, said: str) -> None:
    assert said in " ".join(reasons_against(LINE, seen(engine(), lines=(6 * SECOND,), mapping=mapping)))


def test_a_rank_too_many() -> None:
    found = seen(engine(0), engine(1), lines=(6 * SECOND,) * 2, mapping={"world_size": 1})
    assert reasons_against(LINE, found) == ["rank1.engine is there, but config.json implies 1"]


@pytest.mark.parametrize(
    "more", [{"holders": ("rank0.engine: open",)}, {"hidden": ("process 7",)}, {"killed": "ran out of memory"}]
)
def test_a_writer_or_evidence_that_cannot_be_had(more: dict) -> None:
    assert len(reasons_against(LINE, seen(engine(), lines=(6 * SECOND,), **more))) == 1


def test_known_sizes() -> None:
    sized = LINE.model_copy(update={"complete": KnownSizes({"rank0.engine": 100})})
    assert reasons_against(sized, seen(engine())) == []
    assert "99 bytes of 100" in reasons_against(sized, seen(engine(size=99)))[0]
    assert "nothing says how large" in reasons_against(sized, seen(engine(0), engine(1)))[0]
    found = seen(engine())
    contents = {**found.contents, "rank0.engine": Content(hole=40)}
    assert "nothing was written at byte 40" in reasons_against(sized, replace(found, contents=contents))[0]


def test_what_the_file_itself_says() -> None:
    found = seen(engine(), lines=(6 * SECOND,))
    contents = {**found.contents, "rank0.engine": Content("is empty")}
    assert reasons_against(LINE, replace(found, contents=contents)) == ["rank0.engine: is empty"]


def test_mismatches() -> None:
    config = {"pretrained_config": {"quantization": {"quant_algo": "FP8"}, "n": 1}}
    asked = LINE.model_copy(update={"config": {"pretrained_config.quantization.quant_algo": "FP8"}})
    assert mismatches(asked, config) == []
    for path, wanted in {"pretrained_config.quantization.quant_algo": "NVFP4", "pretrained_config.n": True}.items():
        assert len(mismatches(LINE.model_copy(update={"config": {path: wanted}}), config)) == 1
