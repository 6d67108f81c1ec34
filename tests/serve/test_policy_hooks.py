"""The hooks at work before a stand-in of the proxy: what is logged, who is told, what makes it unready."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from policy_kit import HEADERS, IDENTITY, SEED
from test_policy_registry import MANIFEST

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy_reading import read_policy
from hermetic.serve.openai.hooks import Facts, Outcome, Passed, Refusal, Timings
from hermetic.serve.policy.decisions import Identity
from hermetic.serve.policy.events import (
    ALERT,
    POLICY_REJECTED,
    POLICY_RELOADED,
    PUBLISHED,
    WARM_UP_FAILED,
    WARMED_UP,
    EventLog,
)
from hermetic.serve.policy.redaction import Redactor
from hermetic.serve.policy.runtime import Clocks, PolicyHooks
from hermetic.serve.policy.side import Engine
from hermetic.serve.readiness import SignOffs
from hermetic.testing.serving import StandInServing

PASSED = Outcome(200, None, 100, 20, ["stop"], [Timings(0, 1_000_000)], 0.01, 0.02)


class Bench:
    """A deployment of the policy `text`, with a clock of its own; `said` is what went to stderr."""

    def __init__(self, folder: Path, text: str = SEED, identity: Identity = IDENTITY, link: Path | None = None) -> None:
        (folder / "policy.toml").write_text(text)
        self.folder, self.now, self.said = folder, 1000.0, list[dict[str, Any]]()
        self.slept = asyncio.Event()
        file = read_policy(str(folder / "policy.toml"))
        log = EventLog(str(folder / "events.jsonl"), Redactor(file.policy.redaction), tell=self.heard)
        engine = Engine(identity, path=str(folder / "engine"), link=str(link or ""))
        clocks = Clocks(lambda: self.now, self.sleep)
        self.hooks = PolicyHooks(file, "qwen3", engine, log=log, clocks=clocks, read=lambda: read_policy(file.file))
        self.serving = StandInServing()
        self.told: dict[str, asyncio.Event] = {}

    def heard(self, line: str) -> None:
        document = json.loads(line)
        self.said.append(document)
        self.told.setdefault(document["event"], asyncio.Event()).set()

    async def sleep(self, _: float) -> None:
        """Time does not pass by itself: whoever sleeps is woken when the test has changed something."""
        self.slept.clear()
        await self.slept.wait()

    async def event(self, name: str) -> dict[str, Any]:
        waited = self.told.setdefault(name, asyncio.Event())
        await waited.wait()
        waited.clear()
        return next(one for one in reversed(self.said) if one["event"] == name)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.said if one["event"] == name]

    def ask(self, outcome: Outcome = PASSED, **more: Any) -> Refusal | Passed:
        headers = more.pop("headers", HEADERS)
        facts = {"id": "r1", "endpoint": "chat.completions", "model": "qwen3", "body": {}, "max_tokens": 50}
        asked = Facts(**facts | {"prompt_tokens": outcome.prompt_tokens} | more)
        answer = self.hooks.before(asked, headers)
        if isinstance(answer, Passed):
            self.hooks.after(asked, outcome)
        return answer


def run(bench: Bench, work: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        await bench.hooks.start(bench.serving)
        try:
            await work(bench)
        finally:
            await bench.hooks.stop()

    asyncio.run(main())


async def warm(bench: Bench) -> None:
    await bench.event(WARMED_UP)


def test_ready_after_the_warm_up(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        assert await bench.hooks.unready() == ["warm-up-pending: the warm-up has not ended yet"]
        event = await bench.event(WARMED_UP)
        assert (event["engine_hash"], event["prompts"], event["tokens_out"]) == (IDENTITY.engine_hash, 1, 2)
        event = await bench.event(PUBLISHED)
        assert (event["engine_hash"], event["cause"]) == (IDENTITY.engine_hash, "it is ready for the first time")
        assert await bench.hooks.unready() == []
        assert len(bench.events(PUBLISHED)) == 1

    run(Bench(tmp_path), work)

    async def again(bench: Bench) -> None:
        await warm(bench)
        assert await bench.hooks.unready() == []
        assert bench.events(PUBLISHED) == []

    run(Bench(tmp_path), again)


def test_a_warm_up_that_is_answered_wrongly(tmp_path: Path) -> None:
    text = SEED + '\n[[readiness.warm_up]]\nprompt = "What?"\nexpect = "forty"\n'

    async def work(bench: Bench) -> None:
        bench.serving.answers["main"] = "sk-secret"
        event = await bench.event(WARM_UP_FAILED)
        assert event["cause"] == "'What?' was answered with '[redacted]', in which 'forty' does not occur"
        (reason,) = await bench.hooks.unready()
        assert reason == f"warm-up-failed: {event['cause']}"

    run(Bench(tmp_path, text + '[redaction]\npatterns = ["sk-[a-z]+"]\n'), work)


def test_triton_that_went_is_warmed_up_again(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        bench.serving.up.clear()
        assert (await bench.hooks.unready())[0].startswith("warm-up-pending")
        await asyncio.sleep(0)
        bench.serving.up.add("")
        bench.slept.set()
        await warm(bench)
        assert await bench.hooks.unready() == []
        bench.ask(Outcome(503, "triton_unreachable", 10, 0, [], [], None, 0.1))
        await warm(bench)

    run(Bench(tmp_path), work)


def test_each_request_is_one_line_with_its_schema(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        bench.ask(headers=HEADERS | {"x-operation": "judge", "x-template": "contract@2"}, schema={"type": "object"})
        (line,) = bench.events("llm.request")
        assert {name: line[name] for name in ("operation", "schema_id", "template", "tokens_in", "tokens_out")} == {
            "operation": "judge",
            "schema_id": "unregistered",
            "template": "contract@2",
            "tokens_in": 100,
            "tokens_out": 20,
        }
        assert (line["queue_delay_us"], line["duration_ms"], line["cost_usd"]) == (1000.0, 20.0, 0.0224)
        assert line["kv_cache_reuse"] is None
        assert line["token_budget_overrun"] is False

    run(Bench(tmp_path), work)


@pytest.mark.parametrize(
    ("outcome", "reason", "recipient", "value"),
    [
        (Outcome(200, None, 4000, 1001, ["stop"], [], 0.01, 0.02), "cost_budget", "finance", 0.10002),
        (Outcome(200, None, 10, 1, ["stop"], [Timings(0, 2_500_100)], 0.1, 0.2), "queue_delay", "readiness", 2500.1),
    ],
)
def test_alerts(tmp_path: Path, outcome: Outcome, reason: str, recipient: str, value: float) -> None:
    async def work(bench: Bench) -> None:
        bench.ask(outcome)
        (event,) = bench.events(ALERT)
        assert (event["reason"], event["recipient"], event["value"], event["action"]) == (
            reason,
            recipient,
            value,
            "alert",
        )
        assert event["request"] == "r1"
        bench.ask(outcome)
        bench.now += 1
        bench.ask(outcome)
        assert [one["withheld"] for one in bench.events(ALERT)] == [0, 1]
        flag = {"cost_budget": "cost_budget_overrun", "queue_delay": "queue_delay_budget_overrun"}[reason]
        assert [one[flag] for one in bench.events("llm.request")] == [True, True, True]

    run(Bench(tmp_path, SEED.replace('webhook = "http://127.0.0.1:9/readiness"', "")), work)


def test_what_tensorrt_llm_says_of_blocks_and_drafts(tmp_path: Path) -> None:
    timings = [
        Timings(0, 1000, kv_blocks=8, kv_blocks_reused=2, draft_tokens=4, accepted_tokens=3),
        Timings(0, 5000, kv_blocks=8, kv_blocks_reused=6),
    ]

    async def work(bench: Bench) -> None:
        bench.ask(Outcome(200, None, 10, 4, ["stop", "stop"], timings, 0.1, 0.2), choices=2)
        (line,) = bench.events("llm.request")
        assert line["queue_delay_us"] == 5.0
        assert line["kv_cache_reuse"] == {"hits": 8, "misses": 8}
        assert line["speculative"] == {"attempts": 4, "accepts": 3}
        tags = {"model": "qwen3", "schema_id": "", "operation": "chat.completions"}
        tags["engine_hash"] = IDENTITY.engine_hash
        assert bench.serving.registry.get_sample_value("llm_kv_reuse_ratio_sum", tags) == 0.5

    run(Bench(tmp_path), work)


def test_a_rejection_is_an_event_with_the_seeds_flag(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        answers = [bench.ask(prompt_tokens=4001) for _ in range(3)]
        bench.now += 1
        answers.append(bench.ask(prompt_tokens=4001))
        assert {one.code for one in answers if isinstance(one, Refusal)} == {"token_budget_overrun"}
        assert all(one.headers["X-Engine-Hash"] == IDENTITY.engine_hash for one in answers)
        assert [(one["flag"], one["withheld"]) for one in bench.events(ALERT)] == [
            ("token_budget_overrun", 0),
            ("token_budget_overrun", 2),
        ]
        assert len(bench.events("llm.request_refused")) == 4

    run(Bench(tmp_path), work)


def test_a_window_makes_it_unready_and_alerts_once(tmp_path: Path) -> None:
    text = SEED + "\n[readiness]\nmin_requests = 3\n"
    slow = Outcome(200, None, 10, 1, ["stop"], [Timings(0, 9_000_000)], 0.1, 0.2)

    async def work(bench: Bench) -> None:
        await warm(bench)
        for _ in range(4):
            bench.ask(slow)
        (reason,) = await bench.hooks.unready()
        assert reason == ("window-exceeded: p95 of llm.queue_delay_us over 300 s is 9000, and must be at most 2500")
        (event,) = [one for one in bench.events(ALERT) if one["reason"] == "window"]
        assert event["recipient"] == "readiness"
        bench.now += 301
        assert await bench.hooks.unready() == []

    run(Bench(tmp_path, text.replace('webhook = "http://127.0.0.1:9/readiness"', "")), work)


def test_clients_that_go_are_no_sample(tmp_path: Path) -> None:
    text = SEED + '\n[[readiness.windows]]\nmetric = "llm.error_rate"\nstatistic = "mean"\nat_most = 0\n'

    async def work(bench: Bench) -> None:
        await warm(bench)
        bench.ask(Outcome(499, "client_gone", 10, 1, [], [], None, 99.0))
        assert await bench.hooks.unready() == []
        bench.ask(Outcome(504, "deadline", 10, 1, [], [], None, 99.0))
        assert len(await bench.hooks.unready()) == 1

    run(Bench(tmp_path, text), work)


def test_runtime_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    text = 'runtime_manifests = "manifests"\n' + SEED

    async def missing(bench: Bench) -> None:
        await warm(bench)
        assert await bench.hooks.unready() == ["manifest-missing: there is no runtime manifest"]

    run(Bench(tmp_path, text), missing)
    (folder / "a.json").write_text(json.dumps(MANIFEST | {"engine_hash": "blake3:old"}))

    async def different(bench: Bench) -> None:
        await warm(bench)
        (reason,) = await bench.hooks.unready()
        assert reason.startswith("manifest-mismatch: engine_hash is blake3:old in the manifest and blake3:eee")

    run(Bench(tmp_path, text), different)
    (folder / "b.json").write_text(json.dumps(MANIFEST))

    async def whole(bench: Bench) -> None:
        await warm(bench)
        assert await bench.hooks.unready() == []

    run(Bench(tmp_path, text), whole)


def test_sign_off_is_for_this_engine_and_this_policy(tmp_path: Path) -> None:
    text = SEED + '\n[readiness]\nsign_off = ["module-6"]\n'

    async def work(bench: Bench) -> None:
        await warm(bench)
        assert await bench.hooks.unready() == ["sign-off-missing: module-6 has not signed this engine off"]
        SignOffs(str(tmp_path / "state" / "sign-offs")).sign("module-6", "Ada", bench.hooks.seal())
        assert await bench.hooks.unready() == []

    run(Bench(tmp_path, text), work)

    async def changed(bench: Bench) -> None:
        await warm(bench)
        assert len(await bench.hooks.unready()) == 1

    run(Bench(tmp_path, text + "min_requests = 30\n"), changed)


def test_a_triton_with_another_engine(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        bench.serving.hashes[""] = {"engine_hash": "blake3:other", "tokenizer_hash": IDENTITY.tokenizer_hash}
        (reason,) = await bench.hooks.unready()
        assert reason == (
            f"engine-mismatch: Triton serves the engine_hash blake3:other, and not {IDENTITY.engine_hash}"
        )

    run(Bench(tmp_path), work)


def test_a_link_that_moved_on(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "engine")

    async def work(bench: Bench) -> None:
        await warm(bench)
        assert await bench.hooks.unready() == []
        link.unlink()
        link.symlink_to(tmp_path / "other")
        (reason,) = await bench.hooks.unready()
        assert reason == f"engine-switched: the link shows {tmp_path}/other now: start again to serve that"

    run(Bench(tmp_path, link=link), work)


def test_a_log_that_can_not_be_written_stops_no_request(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        (tmp_path / "events.jsonl").unlink()
        (tmp_path / "events.jsonl").mkdir()
        assert isinstance(bench.ask(prompt_tokens=4001), Refusal)
        assert isinstance(bench.ask(), Passed)
        (reason,) = await bench.hooks.unready()
        assert reason.startswith("events-not-written: the event llm_observability_alert cannot be written")

    run(Bench(tmp_path), work)


# --- read again ---


def rewrite(bench: Bench, old: str, new: str) -> None:
    file = bench.folder / "policy.toml"
    file.write_text(file.read_text().replace(old, new))


def test_another_policy_is_in_force_from_the_next_request_on(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        assert isinstance(bench.ask(prompt_tokens=3000), Passed)
        rewrite(bench, "max_prompt_tokens = {limit = 4000", "max_prompt_tokens = {limit = 2000")
        assert await bench.hooks.reload() == ""
        assert isinstance(bench.ask(prompt_tokens=3000), Refusal)
        (event,) = bench.events(POLICY_RELOADED)
        assert (event["policy"], event["before"]) == (bench.hooks.rules.file.digest[:16], event["before"])
        assert event["policy"] != event["before"]
        assert await bench.hooks.unready() == []

    run(Bench(tmp_path), work)


def test_a_request_that_runs_is_judged_by_what_it_was_admitted_by(tmp_path: Path) -> None:
    """Even where the threshold, its recipient and the price are gone."""

    async def work(bench: Bench) -> None:
        facts = Facts("r1", "chat.completions", "qwen3", {}, 4000, 1001)
        assert isinstance(bench.hooks.before(facts, HEADERS), Passed)
        (bench.folder / "policy.toml").write_text("policy = 1")
        assert await bench.hooks.reload() == ""
        bench.hooks.after(facts, Outcome(200, None, 4000, 1001, ["stop"], [], 0.01, 0.02))
        (line,) = bench.events("llm.request")
        assert (line["cost_usd"], line["cost_budget_overrun"]) == (0.10002, True)
        assert [one["recipient"] for one in bench.events(ALERT)] == ["finance"]
        bench.ask(Outcome(200, None, 4000, 1001, ["stop"], [], 0.01, 0.02))
        assert [one["cost_usd"] for one in bench.events("llm.request")] == [0.10002, 0.0]

    run(Bench(tmp_path), work)


@pytest.mark.parametrize("text", ["policy = ", "policy = 2", SEED + '[schemas]\nfolder = "nowhere"\n'])
def test_a_file_with_a_mistake_leaves_everything_as_it_was(text: str, tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        rules = bench.hooks.rules
        good = (bench.folder / "policy.toml").read_text()
        (bench.folder / "policy.toml").write_text(text)
        problem = await bench.hooks.reload()
        assert problem
        assert bench.hooks.rules is rules
        assert isinstance(bench.ask(prompt_tokens=4001), Refusal)
        (event,) = bench.events(POLICY_REJECTED)
        assert (event["policy"], event["cause"]) == (rules.file.digest[:16], problem)
        (notice,) = bench.hooks.notices()
        assert notice == f"policy-rejected: the policy of {rules.file.digest[:16]} stays in force: {problem}"
        assert await bench.hooks.unready() == []
        (bench.folder / "policy.toml").write_text(good)
        assert await bench.hooks.reload() == ""
        assert bench.hooks.notices() == []

    run(Bench(tmp_path), work)


def test_windows_keep_what_they_have_seen(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        bench.ask(Outcome(200, None, 10, 1, ["stop"], [Timings(0, 2_000_000)], 0.1, 0.2))
        assert await bench.hooks.unready() == []
        rewrite(bench, "max_queue_delay_us = {limit = 2500", "max_queue_delay_us = {limit = 1500")
        await bench.hooks.reload()
        (reason,) = await bench.hooks.unready()
        assert reason.startswith("window-exceeded: ")

    run(Bench(tmp_path, SEED + "[readiness]\nmin_requests = 1\n"), work)


def test_other_prompts_are_asked_and_nobody_waits_for_that(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        rewrite(bench, "policy = 1", 'policy = 1\nreadiness = {warm_up = [{prompt = "What?", expect = "forty"}]}')
        await bench.hooks.reload()
        assert await bench.hooks.unready() == []
        await bench.event(WARM_UP_FAILED)
        (reason,) = await bench.hooks.unready()
        assert reason.startswith("warm-up-failed: 'What?'")

    run(Bench(tmp_path), work)


def test_a_sign_off_is_of_one_text(tmp_path: Path) -> None:
    """The one that is in force: somebody may sign the next one before it is read."""

    async def work(bench: Bench) -> None:
        await warm(bench)
        hooks = bench.hooks
        hooks.rules.sign_offs.sign("module-6", "Ada", hooks.seal())
        assert await hooks.unready() == []
        rewrite(bench, "limit = 4000", "limit = 3999")
        await hooks.reload()
        (reason,) = await hooks.unready()
        assert reason.startswith("sign-off-missing: module-6")

    run(Bench(tmp_path, SEED + '[readiness]\nsign_off = ["module-6"]\n'), work)


# --- another engine ---

YOUNG = Identity("blake3:" + "f" * 64, "fp8", IDENTITY.tokenizer_hash)


def test_another_engine_takes_over(tmp_path: Path) -> None:
    """Once it is warm. A request that runs meanwhile is the old one's to the end, and nobody minds that link."""
    for name in ("engine", "young"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "young")

    async def work(bench: Bench) -> None:
        await warm(bench)
        hooks, serving = bench.hooks, bench.serving
        serving.up.add("tried")
        facts = Facts("r1", "chat.completions", "qwen3", {}, 100, 50)
        assert isinstance(hooks.before(facts, HEADERS), Passed)
        assert (await hooks.unready())[0].startswith("engine-switched")
        switched: list[Any] = []

        def switch() -> None:
            serving.up.remove("tried")
            switched.append(serving.asked[-1][0])

        await hooks.exchange(Engine(YOUNG, str(tmp_path / "young"), str(link)), "tried", switch)
        assert switched == ["tried"]
        assert await hooks.unready() == []
        (event,) = bench.events(PUBLISHED)
        assert (event["engine_hash"], event["quantisation"]) == (YOUNG.engine_hash, "fp8")
        assert IDENTITY.engine_hash in event["cause"]
        hooks.after(facts, PASSED)
        (line,) = bench.events("llm.request")
        assert line["engine_hash"] == IDENTITY.engine_hash
        answer = hooks.before(Facts("r2", "chat.completions", "qwen3", {}, 100, 50), HEADERS)
        assert isinstance(answer, Refusal)
        assert answer.status == 412

    run(Bench(tmp_path, link=link), work)


def test_an_engine_that_answers_wrongly_does_not_take_over(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        await warm(bench)
        bench.serving.up.add("tried")
        bench.serving.answers["tried"] = "Bye"
        with pytest.raises(HermeticError) as caught:
            await bench.hooks.exchange(Engine(YOUNG), "tried", lambda: pytest.fail("it was switched"))
        assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "warm-up-failed")
        assert bench.events(WARM_UP_FAILED)[0]["engine_hash"] == YOUNG.engine_hash
        assert bench.hooks.side.identity is IDENTITY
        assert await bench.hooks.unready() == []

    run(Bench(tmp_path, SEED + '[[readiness.warm_up]]\nprompt = "Hi"\nexpect = "Hello"\n'), work)
