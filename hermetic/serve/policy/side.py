"""An engine of a deployment while it is served: what it is, whether it is warm, and how it does."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, get_args

from hermetic.llm.policy import Statistic, Window, WindowMetric
from hermetic.serve.policy.decisions import Figures, Identity
from hermetic.serve.policy.warming import WarmedUp
from hermetic.serve.policy.windows import Windows
from hermetic.serve.readiness import WarmUpState

__all__ = ["SHOWN", "Engine", "Side"]

_MEAN: Final[tuple[Statistic, ...]] = ("mean",)
_SPREAD: Final[tuple[Statistic, ...]] = ("p50", "p95")
#: What people are shown of every figure, over five minutes; no bound is meant.
SHOWN: Final = tuple(
    Window(metric=metric, statistic=kind, at_least=Decimal(0), seconds=300)
    for metric in get_args(WindowMetric)
    for kind in (_MEAN if metric == "llm.error_rate" else _SPREAD)
)


@dataclass(frozen=True)
class Engine:
    """What is served. `path` is its folder and `link` what showed it, if a link did; `manifest` and `provenance` are
    shown to people.
    """

    identity: Identity
    path: str = ""
    link: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def switched(self) -> str:
        """What the link shows instead by now; "" if it shows this."""
        if not self.link:
            return ""
        shown = os.path.realpath(self.link)
        return "" if shown == os.path.realpath(self.path) else shown


@dataclass
class Side:
    """`key` is the engine's name for the proxy; `windows` are what readiness asks for, `shown` those of the page."""

    key: str
    engine: Engine
    windows: Windows
    shown: Windows
    warm: WarmUpState = WarmUpState.PENDING
    warmed: WarmedUp | None = None
    failing: frozenset[str] = frozenset()
    watched: float = -math.inf

    @property
    def identity(self) -> Identity:
        return self.engine.identity

    def mismatches(self, promised: Mapping[str, str]) -> list[str]:
        """Where Triton, by what it says, serves something else; it need not say anything."""
        ours = {"engine_hash": self.identity.engine_hash, "tokenizer_hash": self.identity.tokenizer_hash}
        return [
            f"Triton serves the {name} {said}, and not {ours[name]}"
            for name, said in promised.items()
            if said != ours[name]
        ]

    def lost(self) -> None:
        """Triton has gone: whatever comes back is cold."""
        self.warm, self.warmed = WarmUpState.PENDING, None

    def record(self, figures: Figures, cost: Decimal) -> None:
        """A request that ended and was not given up by its client."""
        samples: dict[WindowMetric, float | None] = {
            "llm.latency_ms": figures.latency_ms,
            "llm.queue_delay_us": figures.queue_delay_us,
            "llm.tokens": figures.tokens,
            "llm.cost_usd": float(cost),
            "llm.kv_reuse_ratio": figures.kv_reuse_ratio,
            "llm.speculative_accept_ratio": figures.speculative_accept_ratio,
        }
        known: dict[WindowMetric, float | None] = {} if figures.failed else samples
        for windows in (self.windows, self.shown):
            windows.add("llm.error_rate", float(figures.failed))
            for metric, value in known.items():
                windows.add(metric, value)
