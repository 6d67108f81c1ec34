"""What is taken is whole and what is whole is taken, whatever the writers do: on a fake clock, seed by seed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from fake_stage import SETTLE, WALL, FakeStage, StageEnded

from hermetic.harvest import Outcome, Session, Watch, WatchLimits
from hermetic.harvest.session import Conclusion

RUNS = 1000


async def run(stage: FakeStage) -> Conclusion:
    """As the builder does: oversee until the stage ends or is to be killed, then conclude."""
    session = Session(stage.harvest, stage, Watch(WatchLimits(SETTLE, WALL, 0), stage.now))
    try:
        await session.oversee()
    except StageEnded:
        ended = stage.ended
    else:
        ended = stage.kill()
    assert ended is not None
    return await session.conclude(ended)


@pytest.fixture(scope="module")
def runs() -> list[tuple[int, FakeStage, Conclusion]]:
    stages = [(seed, FakeStage(seed)) for seed in range(RUNS)]
    return [(seed, stage, asyncio.run(run(stage))) for seed, stage in stages]


def test_no_truncated_engine_is_taken(runs) -> None:
    wrong = [(seed, stage.fate, stage.evidence, found) for seed, stage, found in runs if found.good and not stage.whole]
    assert wrong == []


def test_no_whole_engine_is_missed(runs) -> None:
    wrong = [(seed, stage.evidence, found) for seed, stage, found in runs if stage.fate == "well" and not found.good]
    assert wrong == []


def test_the_seeds_reach_every_outcome(runs) -> None:
    seen = Counter(found.outcome for _, _, found in runs)
    assert min(seen[outcome] for outcome in Outcome) > 10, seen


def test_a_hanging_stage_is_harvested_soon_after_its_last_piece_of_evidence(runs) -> None:
    late = []
    for _, stage, found in runs:
        if found.outcome is Outcome.HARVESTED and stage.ended is not None and stage.ended.stopped:
            assert stage.ready_at is not None
            due = max(stage.ready_at, stage.changed_at + SETTLE)
            excused = 0.3 if stage.evidence == "validator" else 0.0
            # A freeze that fails takes the grace time of 5 s, during which the stage runs.
            late.append(stage.now - due - excused - 5.0 * (stage.freezes - 1))
    assert len(late) > 100
    assert max(late) <= 0.55


@pytest.mark.parametrize("status", [0, 1])
def test_a_status_alone_decides_nothing(runs, status: int) -> None:
    """Of the runs that end with this status some are taken and some are not."""
    verdicts = {found.good for _, stage, found in runs if stage.ended is not None and stage.ended.status == status}
    assert verdicts == {True, False}
