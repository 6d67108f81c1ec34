"""A candidate takes over or is given up: each way to each end, within the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_kit import HEADERS, IDENTITY
from test_policy_hooks import PASSED, Bench

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import Canary, Window
from hermetic.serve.canary import CANDIDATE, Trial, Verdict, goes_to_candidate, judge
from hermetic.serve.canary_hooks import CanaryHooks
from hermetic.serve.openai.hooks import Facts, Outcome, Passed
from hermetic.serve.policy.events import PUBLISHED, ROLLED_BACK, WARM_UP_FAILED, WARMED_UP
from hermetic.serve.policy.runtime import Clocks
from hermetic.serve.policy.side import Engine
from hermetic.serve.policy.windows import Held
from hermetic.serve.readiness import WarmUpState

RULES = Canary(share_percent=10, requests=5, within_s=60)
SMOKED = Trial(0.0, smoke=WarmUpState.DONE)
OVER = Held(Window(metric="llm.latency_ms", at_most=Decimal(800)), 900.0, 20)


@pytest.mark.parametrize(
    ("trial", "now", "verdict", "says"),
    [
        (Trial(0.0), 59.0, Verdict.WAIT, ""),
        (SMOKED, 59.0, Verdict.WAIT, ""),
        (replace(SMOKED, answered=5), 1.0, Verdict.PROMOTE, "5 requests passed"),
        (replace(SMOKED, answered=5), 60.0, Verdict.PROMOTE, "5 requests passed"),
        (Trial(0.0, answered=5), 1.0, Verdict.WAIT, ""),
        (replace(SMOKED, answered=5, failed=1), 1.0, Verdict.BACK, "1 of 5 requests failed"),
        (replace(SMOKED, answered=5, failing=(OVER,)), 1.0, Verdict.BACK, "p95 of llm.latency_ms"),
        (Trial(0.0, smoke=WarmUpState.FAILED, smoke_problem="no"), 1.0, Verdict.BACK, "the smoke test failed: no"),
        (Trial(0.0), 60.0, Verdict.BACK, "its smoke test did not come to an end within 60 s"),
        (replace(SMOKED, answered=4), 60.0, Verdict.BACK, "5 requests did not come to an end within 60 s"),
    ],
)
def test_judgement(trial: Trial, now: float, verdict: Verdict, says: str) -> None:
    decision = judge(RULES, trial, now)
    assert decision.verdict is verdict
    assert says in decision.cause


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_the_share_is_exact_in_every_hundred(start: int, percent: int) -> None:
    assert sum(goes_to_candidate(start + one, percent) for one in range(100)) == percent


@given(st.builds(Trial, st.just(0.0), st.sampled_from(WarmUpState), st.just(""), st.integers(0, 9), st.integers(0, 9)))
def test_nothing_waits_beyond_the_limit(trial: Trial) -> None:
    assert judge(RULES, trial, 60.0).verdict is not Verdict.WAIT


NEW = replace(IDENTITY, engine_hash="blake3:" + "d" * 64)
TEXT = """
policy = 1
required_headers = []
[canary]
share_percent = 50
requests = 2
within_s = 60
"""


class Trying(Bench):
    """A deployment that tries a candidate; `published` has why it took over."""

    def __init__(self, folder: Path, text: str = TEXT, refusal: HermeticError | None = None) -> None:
        super().__init__(folder, text)
        plain, self.published, self.refusal = self.hooks, list[str](), refusal
        self.trial = self.hooks = CanaryHooks(
            plain.rules.file,
            "qwen3",
            Engine(IDENTITY),
            Engine(NEW),
            self.publish,
            log=plain.log,
            clocks=Clocks(lambda: self.now, self.sleep),
        )
        self.serving.up.add(CANDIDATE)

    def publish(self, cause: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.published.append(cause)

    def request(self, outcome: Outcome = PASSED, headers: dict[str, str] | None = None) -> tuple[str, Any]:
        """Which engine it went to, and what was said beforehand."""
        headers = headers or {}
        engine = self.hooks.route("chat.completions", headers)
        facts = Facts("r", "chat.completions", "qwen3", {}, 100, 50, engine=engine)
        answer = self.hooks.before(facts, headers)
        if isinstance(answer, Passed):
            self.hooks.after(facts, outcome)
        return engine, answer


def run(bench: Trying, work: Callable[[Trying], Awaitable[None]], *, warm: int = 2) -> None:
    """`warm` is how many of the two engines get warm before the work begins."""

    async def main() -> None:
        await bench.hooks.start(bench.serving)
        try:
            while len(bench.events(WARMED_UP)) < warm:
                await bench.event(WARMED_UP)
            await work(bench)
        finally:
            await bench.hooks.stop()

    asyncio.run(main())


def test_it_takes_over(tmp_path: Path) -> None:
    async def work(bench: Trying) -> None:
        assert [bench.request()[0] for _ in range(4)] == ["", CANDIDATE, "", CANDIDATE]
        while len(bench.events(PUBLISHED)) < 2:  # the first is that of the old engine, which became ready
            await bench.event(PUBLISHED)
        _, event = bench.events(PUBLISHED)
        assert event["engine_hash"] == NEW.engine_hash
        assert event["cause"] == "the smoke test and 2 requests passed"
        assert bench.published == [event["cause"]]
        engine, answer = bench.request()
        assert engine == CANDIDATE
        assert answer.headers["X-Engine-Hash"] == NEW.engine_hash
        assert await bench.hooks.unready() == []
        assert bench.hooks.canary_facts()["decision"] == f"promote: {event['cause']}"

    run(Trying(tmp_path), work)


def test_it_is_given_up_for_one_failure(tmp_path: Path) -> None:
    async def work(bench: Trying) -> None:
        bench.request()
        assert bench.request(Outcome(502, "bad_upstream", 1, 0, [], [], None, 0.1))[0] == CANDIDATE
        event = await bench.event(ROLLED_BACK)
        assert (event["engine_hash"], event["given_up"]) == (IDENTITY.engine_hash, NEW.engine_hash)
        assert event["cause"] == "1 of 1 requests failed"
        assert {bench.request()[0] for _ in range(9)} == {""}
        assert bench.published == []

    run(Trying(tmp_path), work)


def test_it_is_given_up_for_its_smoke_test(tmp_path: Path) -> None:
    text = TEXT + '[[readiness.warm_up]]\nprompt = "Hi"\nexpect = "Hello"\n'

    async def work(bench: Trying) -> None:
        await bench.event(WARM_UP_FAILED)
        event = await bench.event(ROLLED_BACK)
        assert event["cause"].startswith("the smoke test failed: 'Hi' was answered with 'Bye'")
        assert await bench.hooks.unready() == []

    bench = Trying(tmp_path, text)
    bench.serving.answers[CANDIDATE] = "Bye"
    run(bench, work, warm=1)


def test_it_is_given_up_for_being_another(tmp_path: Path) -> None:
    async def work(bench: Trying) -> None:
        event = await bench.event(ROLLED_BACK)
        assert event["cause"] == f"Triton serves the engine_hash blake3:f, and not {NEW.engine_hash}"
        assert {bench.request()[0] for _ in range(9)} == {""}

    bench = Trying(tmp_path)
    bench.serving.hashes[CANDIDATE] = {"engine_hash": "blake3:f"}
    run(bench, work)


def test_it_is_given_up_when_its_time_is_over(tmp_path: Path) -> None:
    async def work(bench: Trying) -> None:
        bench.slept.set()
        event = await bench.event(ROLLED_BACK)
        assert "did not come to an end within 60 s" in event["cause"]

    run(Trying(tmp_path), work)


def test_it_is_given_up_for_a_window(tmp_path: Path) -> None:
    text = TEXT + '[[readiness.windows]]\nmetric = "llm.latency_ms"\nat_most = 800\n'

    async def work(bench: Trying) -> None:
        bench.request(replace(PASSED, duration_s=5.0))
        bench.request(replace(PASSED, duration_s=5.0))
        assert "p95 of llm.latency_ms" in (await bench.event(ROLLED_BACK))["cause"]

    run(Trying(tmp_path, text), work)


def test_what_can_not_be_published_is_given_up(tmp_path: Path) -> None:
    async def work(bench: Trying) -> None:
        for _ in range(4):
            bench.request()
        event = await bench.event(ROLLED_BACK)
        assert event["cause"] == "it could not be published: no link"
        assert bench.request()[0] == ""

    run(Trying(tmp_path, refusal=HermeticError(Domain.USAGE, "link-refused", "no link")), work)


def test_a_request_that_names_an_engine_gets_it(tmp_path: Path) -> None:
    named = TEXT.replace("required_headers = []", "")

    async def work(bench: Trying) -> None:
        new = {name.lower(): value for name, value in NEW.headers.items()}
        for _ in range(3):
            engine, answer = bench.request(headers=HEADERS)
            assert (engine, answer.headers["X-Engine-Hash"]) == ("", IDENTITY.engine_hash)
        engine, answer = bench.request(headers=new)
        assert (engine, answer.headers["X-Engine-Hash"]) == (CANDIDATE, NEW.engine_hash)

    run(Trying(tmp_path, named), work)

    async def shared(bench: Trying) -> None:
        found = [bench.request(headers=HEADERS) for _ in range(2)]
        assert [engine for engine, _ in found] == ["", CANDIDATE]
        assert [answer.headers["X-Engine-Hash"] for _, answer in found] == [IDENTITY.engine_hash, NEW.engine_hash]

    run(Trying(tmp_path, f"{named}share_named = true\n"), shared)
