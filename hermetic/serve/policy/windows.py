"""Figures of the last minutes: whether a deployment keeps what its policy promises."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from hermetic.llm.policy import Statistic, Window, WindowMetric

__all__ = ["Held", "Windows", "statistic"]

#: Kept of each figure; at more requests than that in a window, it is of the newest.
_MOST: Final = 10_000


@dataclass(frozen=True)
class Held:
    """A window now. `value` is None where too few requests have been there to say anything."""

    window: Window
    value: float | None
    requests: int

    @property
    def holds(self) -> bool:
        if self.value is None:
            return True
        value, window = Decimal(str(self.value)), self.window
        if window.at_most is not None:
            return value <= window.at_most
        return window.at_least is None or value >= window.at_least

    def __str__(self) -> str:
        window = self.window
        bound = f"at most {window.at_most}" if window.at_most is not None else f"at least {window.at_least}"
        few = f"not known ({self.requests} of {window.min_requests} requests)"
        value = few if self.value is None else f"{self.value:g}"
        return f"{window.statistic} of {window.metric} over {window.seconds} s is {value}, and must be {bound}"


def statistic(kind: Statistic, values: list[float]) -> float:
    """Of one value or more; percentiles are values that were there (nearest rank)."""
    if kind == "mean":
        return math.fsum(values) / len(values)
    ordered = sorted(values)
    share = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}[kind]
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Windows:
    """The samples that `windows` need. `clock` gives seconds that only grow."""

    def __init__(self, windows: Iterable[Window], clock: Callable[[], float]) -> None:
        self._windows = tuple(windows)
        self._clock = clock
        self._samples: dict[WindowMetric, deque[tuple[float, float]]] = {
            one.metric: deque(maxlen=_MOST) for one in self._windows
        }

    def add(self, metric: WindowMetric, value: float | None) -> None:
        """A sample of now; None is none, and so is one that no window asks for."""
        if value is not None and metric in self._samples:
            self._samples[metric].append((self._clock(), value))

    def held(self) -> tuple[Held, ...]:
        """Every window as it is now."""
        return tuple(self._held(one) for one in self._windows)

    def failing(self) -> Iterator[Held]:
        return (one for one in self.held() if not one.holds)

    def asked_for(self, windows: Iterable[Window]) -> Windows:
        """Other windows over the same samples, as far as there are any."""
        found = Windows(windows, self._clock)
        found._samples |= {metric: kept for metric, kept in self._samples.items() if metric in found._samples}
        return found

    def clear(self) -> None:
        """Forget everything, as for another engine."""
        for samples in self._samples.values():
            samples.clear()

    def _held(self, window: Window) -> Held:
        since = self._clock() - window.seconds
        values = [value for at, value in self._samples[window.metric] if at >= since]
        enough = len(values) >= window.min_requests
        return Held(window, statistic(window.statistic, values) if enough else None, len(values))
