"""What ``/metrics`` shows of the proxy itself, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hermetic.serve.openai.hooks import Facts, Outcome

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counts of requests and tokens, seconds to the first token and to the last."""

    def __init__(self, registry: CollectorRegistry, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        def called(name: str) -> str:
            return f"hermetic_proxy_{name}"

        labels = ("model", "endpoint")
        self._requests = Counter(called("requests"), "Requests that ended.", (*labels, "status"), registry=registry)
        self._prompt = Counter(called("prompt_tokens"), "Tokens of prompts.", labels, registry=registry)
        self._completion = Counter(called("completion_tokens"), "Tokens of answers.", labels, registry=registry)
        self._first, self._whole = (
            Histogram(called(name), f"Seconds to the {what}.", labels, buckets=_SECONDS, registry=registry)
            for name, what in (("first_token_seconds", "first token"), ("request_seconds", "end"))
        )
        Gauge(called("running_answers"), "Answers being computed.", registry=registry).set_function(running)
        Gauge(called("waiting_requests"), "Requests that wait for that.", registry=registry).set_function(waiting)

    def ended(self, model: str, facts: Facts, outcome: Outcome) -> None:
        labels = (model, facts.endpoint)
        self._requests.labels(*labels, str(outcome.status)).inc()
        self._prompt.labels(*labels).inc(outcome.prompt_tokens)
        self._completion.labels(*labels).inc(outcome.completion_tokens)
        self._whole.labels(*labels).observe(outcome.duration_s)
        if outcome.ttft_s is not None:
            self._first.labels(*labels).observe(outcome.ttft_s)

    def refused(self, model: str, endpoint: str, status: int) -> None:
        """A request that never was one."""
        self._requests.labels(model, endpoint, str(status)).inc()
