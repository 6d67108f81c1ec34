"""What is counted, logged and sent: windows, metrics, events, webhooks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import Recipient, Redaction, Window
from hermetic.serve.policy.decisions import Breach, Figures
from hermetic.serve.policy.delivery import Deliveries
from hermetic.serve.policy.events import ALERT, EVENTS, EventLog
from hermetic.serve.policy.metrics import METRICS, Labels, Metrics
from hermetic.serve.policy.redaction import Redactor
from hermetic.serve.policy.windows import Windows, statistic

PLAIN = Redactor(Redaction())


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# --- windows ---


def window(**changes: Any) -> Window:
    return Window(**{"metric": "llm.queue_delay_us", "at_most": Decimal(2500), "seconds": 300} | changes)


def test_a_window_forgets() -> None:
    clock = Clock()
    windows = Windows([window()], clock)
    windows.add("llm.queue_delay_us", 9000.0)
    (failing,) = windows.failing()
    assert str(failing) == "p95 of llm.queue_delay_us over 300 s is 9000, and must be at most 2500"
    clock.now += 301
    assert list(windows.failing()) == []
    assert windows.held()[0].value is None


def test_too_few_requests_say_nothing() -> None:
    windows = Windows([window(min_requests=2)], Clock())
    windows.add("llm.queue_delay_us", 9000.0)
    assert list(windows.failing()) == []
    windows.add("llm.queue_delay_us", 1.0)
    assert [one.requests for one in windows.failing()] == [2]
    windows.clear()
    assert windows.held()[0].requests == 0


@pytest.mark.parametrize(("value", "holds"), [(0.41, True), (0.4, True), (0.39, False), (None, True)])
def test_at_least(value: float | None, holds: bool) -> None:
    """What a server does not say is not held against it."""
    windows = Windows([window(metric="llm.kv_reuse_ratio", at_most=None, at_least=Decimal("0.4"))], Clock())
    windows.add("llm.kv_reuse_ratio", value)
    assert windows.held()[0].holds is holds


def test_percentiles() -> None:
    values = [float(one) for one in range(1, 101)]
    assert [statistic(kind, values) for kind in ("p50", "p95", "p99", "max", "mean")] == [50, 95, 99, 100, 50.5]
    assert statistic("p95", [3.0]) == 3.0


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_percentiles_are_values_that_were_there(values: list[float]) -> None:
    p50, p95, p99 = (statistic(kind, values) for kind in ("p50", "p95", "p99"))
    assert {p50, p95, p99} <= set(values)
    assert p50 <= p95 <= p99 <= statistic("max", values)


# --- metrics ---


def test_metrics_have_the_seeds_names_in_both_worlds() -> None:
    reader, registry = InMemoryMetricReader(), CollectorRegistry()
    metrics = Metrics(registry, MeterProvider([reader]).get_meter("test"))
    labels = Labels("qwen3", "answer_1", "judge", "blake3:e")
    figures = Figures(10, 5, 12.5, queue_delay_us=1500.0, kv_reused=1, kv_total=2, draft_tokens=10, draft_accepted=6)
    metrics.record(labels, figures, Decimal("0.02"))
    metrics.record(labels, Figures(10, 0, 1.0, failed=True), Decimal(0))
    metrics.breach(Breach("max_tokens", Decimal(7000), Decimal(6000), None, rejected=True))
    data = reader.get_metrics_data()
    assert data is not None
    found = data.resource_metrics[0].scope_metrics[0].metrics
    sums = {one.name: one.data.data_points[0].sum for one in found}
    assert sums == {
        "llm.latency_ms": 13.5,
        "llm.queue_delay_us": 1500.0,
        "llm.tokens_in": 20,
        "llm.tokens_out": 5,
        "llm.kv_reuse_ratio": 0.5,
        "llm.speculative_accept_ratio": 0.6,
        "llm.cost_usd": 0.02,
        "llm.error_rate": 1.0,
    }
    assert set(sums) == set(METRICS)
    assert dict(found[0].data.data_points[0].attributes) == vars(labels)
    tags = {"model": "qwen3", "schema_id": "answer_1", "operation": "judge", "engine_hash": "blake3:e"}
    for name, value in sums.items():
        assert registry.get_sample_value(f"{name.replace('.', '_')}_sum", tags) == value
    text = generate_latest(registry).decode()
    assert 'llm_threshold_exceeded_total{action="reject",threshold="max_tokens"} 1.0' in text


# --- events ---


def test_events_are_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    log = EventLog(str(tmp_path / "state" / "events.jsonl"), PLAIN, clock=Clock(0.5), tell=lines.append)
    written = [log.write(name, name="qwen3", number=index) for index, name in enumerate(EVENTS)]
    assert [json.loads(line) for line in lines] == written
    assert [json.loads(line) for line in Path(log.path).read_text().splitlines()] == written
    assert written[0]["at"] == "1970-01-01T00:00:00.500+00:00"
    assert EVENTS == (
        "llm_engine_published",
        "llm_warmup_completed",
        "llm_warmup_failed",
        "llm_rollback_completed",
        "llm_observability_alert",
    )
    assert Path(log.path).stat().st_mode & 0o777 == 0o600


def test_the_newest_events_first_whatever_else_is_in_the_file(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "events.jsonl"), PLAIN, tell=lambda _: None)
    assert log.recent() == []
    for number in range(3):
        log.write(ALERT, number=number)
        with open(log.path, "a", encoding="utf-8") as stream:
            stream.write('{"event": "llm_obs\n[]\n')
    assert [one["number"] for one in log.recent([ALERT], most=2)] == [2, 1]
    assert log.recent(["llm_rollback_completed"]) == []


def test_events_are_redacted_everywhere(tmp_path: Path) -> None:
    lines: list[str] = []
    redactor = Redactor(Redaction(patterns=(r"sk-[a-z0-9]+",)))
    log = EventLog(str(tmp_path / "events.jsonl"), redactor, tell=lines.append)
    log.write(ALERT, cause={"key": ["sk-abc1"]})
    log.tell("llm.request", template="sk-abc1")
    assert "sk-abc1" not in Path(log.path).read_text() + "".join(lines)


def test_an_event_that_can_not_be_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HermeticError) as caught:
        EventLog(str(tmp_path / "file" / "events.jsonl"), PLAIN, tell=lambda _: None).write(ALERT)
    assert (caught.value.domain, caught.value.reason) == (Domain.ENVIRONMENT, "events-not-written")


# --- webhooks, at a real server ---


@contextmanager
def webhook(*answers: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers with these statuses, then with 200; and what it was sent."""
    got: list[dict[str, Any]] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append(body | {"key": self.headers["Idempotency-Key"]})
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", got
        finally:
            server.shutdown()
            thread.join()


def deliver(url: str | None, *documents: dict[str, Any], attempts: int = 4) -> tuple[list[float], list[str]]:
    """The pauses that were made, and how each delivery ended."""
    pauses: list[float] = []
    ends: list[str] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def main() -> None:
        recipients = {"readiness": Recipient(webhook=url, attempts=attempts), "finance": Recipient()}
        deliveries = Deliveries(recipients, lambda _, __, problem: ends.append(problem), sleep=sleep)
        for document in documents:
            deliveries.hand_over("readiness", document)
            deliveries.hand_over("finance", document)
            deliveries.hand_over(None, document)
        await deliveries.finish(60)

    asyncio.run(main())
    return pauses, ends


def test_a_webhook_is_tried_again_until_it_takes_it() -> None:
    with webhook(503, 429) as (url, got):
        assert deliver(url, {"id": "1"}, {"id": "2"}) == ([1.0, 2.0], ["", ""])
        assert [one["id"] for one in got] == ["1", "1", "1", "2"]
        assert got[0]["key"] == "1"


def test_attempts_are_used_up() -> None:
    with webhook(*[500] * 9) as (url, got):
        assert deliver(url, {"id": "1"}) == ([1.0, 2.0, 4.0], ["HTTP status 500"])
        assert len(got) == 4


def test_what_would_not_change_is_not_tried_again() -> None:
    with webhook(400) as (url, got):
        assert deliver(url, {"id": "1"}) == ([], ["HTTP status 400"])
        assert len(got) == 1


def test_nobody_there() -> None:
    with webhook() as (url, _):
        pass
    pauses, (problem,) = deliver(url, {"id": "1"}, attempts=2)
    assert pauses == [1.0]
    assert problem.startswith("ConnectError")


def test_nobody_to_tell() -> None:
    assert deliver(None, {"id": "1"}) == ([], [])


def test_a_dead_recipient_does_not_hold_the_end() -> None:
    async def never(*_: object) -> int:
        await asyncio.Event().wait()
        return 200

    async def main() -> None:
        deliveries = Deliveries({"a": Recipient(webhook="http://a")}, lambda *_: None, send=never)
        deliveries.hand_over("a", {})
        await deliveries.finish(0)

    asyncio.run(main())
