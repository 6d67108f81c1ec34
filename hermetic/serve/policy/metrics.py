"""What is counted of each request, under the serving guide's names, for OpenTelemetry and for Prometheus' ``/metrics``.

OpenTelemetry's API alone records nothing; what is installed and set up beside it (``opentelemetry-instrument``) does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from opentelemetry import metrics as otel
from prometheus_client import CollectorRegistry, Counter, Histogram

from hermetic.serve.policy.decisions import Breach, Figures

__all__ = ["METRICS", "Labels", "Metrics"]

_RATIOS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_TOKENS: Final = (1, 16, 64, 256, 512, 1024, 2048, 4000, 6000, 8192, 16384, 32768, 131072)
#: Name, unit as OpenTelemetry writes it, bounds of Prometheus' buckets, and what it is.
METRICS: Final[Mapping[str, tuple[str, tuple[float, ...], str]]] = {
    "llm.latency_ms": (
        "ms",
        (10, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 60000),
        "From the request to the end of the answer.",
    ),
    "llm.queue_delay_us": (
        "us",
        (100, 250, 500, 1000, 1500, 2500, 5000, 10_000, 100_000, 1_000_000, 10_000_000),
        "From arrival in Triton to the first computation.",
    ),
    "llm.tokens_in": ("{token}", _TOKENS, "Tokens of the prompt."),
    "llm.tokens_out": ("{token}", _TOKENS, "Tokens of the answers."),
    "llm.kv_reuse_ratio": ("1", _RATIOS, "Blocks of the KV cache that were there already."),
    "llm.speculative_accept_ratio": ("1", _RATIOS, "Draft tokens that were right."),
    "llm.cost_usd": ("USD", (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "By the policy's prices."),
    "llm.error_rate": ("1", (0.0, 1.0), "1 for a request that failed, 0 for any other."),
}


@dataclass(frozen=True)
class Labels:
    """Of every sample. All have few values: what a client sends freely is none of them."""

    model: str
    schema_id: str
    operation: str
    engine_hash: str

    @property
    def values(self) -> dict[str, str]:
        return dict(vars(self))


class Metrics:
    """The instruments. `registry` is what ``/metrics`` shows, with _ for . in names; `meter` is the global one's."""

    def __init__(self, registry: CollectorRegistry, meter: otel.Meter | None = None) -> None:
        names = tuple(Labels.__dataclass_fields__)
        meter = meter or otel.get_meter("hermetic")
        self._otel = {
            name: meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=list(bounds))
            for name, (unit, bounds, text) in METRICS.items()
        }
        self._prometheus = {
            name: Histogram(name.replace(".", "_"), text, names, registry=registry, buckets=bounds)
            for name, (_, bounds, text) in METRICS.items()
        }
        self._breaches = Counter(
            "llm_threshold_exceeded", "Requests over a threshold.", ("threshold", "action"), registry=registry
        )

    def record(self, labels: Labels, figures: Figures, cost: Decimal) -> None:
        """One request; what the server did not say is not recorded."""
        values = {
            "llm.latency_ms": figures.latency_ms,
            "llm.queue_delay_us": figures.queue_delay_us,
            "llm.tokens_in": figures.prompt_tokens,
            "llm.tokens_out": figures.completion_tokens,
            "llm.kv_reuse_ratio": figures.kv_reuse_ratio,
            "llm.speculative_accept_ratio": figures.speculative_accept_ratio,
            "llm.cost_usd": float(cost),
            "llm.error_rate": float(figures.failed),
        }
        for name, value in values.items():
            if value is not None:
                self._otel[name].record(value, labels.values)
                self._prometheus[name].labels(**labels.values).observe(value)

    def breach(self, breach: Breach) -> None:
        action = "reject" if breach.rejected else "alert"
        self._breaches.labels(threshold=breach.threshold, action=action).inc()
