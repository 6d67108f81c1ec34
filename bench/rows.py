"""What a figure says, and the table and the JSON of all of them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.timing import Sample

__all__ = ["Row", "failures", "table", "timed_row", "write"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured value, None if it could not be had.

    `limit`, in its unit, must not be exceeded, `floor` must be reached; peers have neither.
    """

    figure: str
    what: str
    value: float | None
    unit: str
    runs: int = 1
    spread: tuple[float, float] | None = None  # smallest and largest
    peak_mb: float | None = None
    limit: float | None = None
    floor: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        if self.value is None:
            return False
        return (self.limit is None or self.value <= self.limit) and (self.floor is None or self.value >= self.floor)


def timed_row(figure: str, what: str, samples: Sequence[Sample], *, unit: str = "s", **more: object) -> Row:
    """The median of `samples`, in seconds or milliseconds, and the largest peak of memory."""
    factor = {"s": 1.0, "ms": 1000.0}[unit]
    values = [sample.seconds * factor for sample in samples]
    row = Row(
        figure=figure,
        what=what,
        value=statistics.median(values),
        unit=unit,
        runs=len(values),
        spread=(min(values), max(values)),
        peak_mb=max(sample.peak_mb for sample in samples),
    )
    return dataclasses.replace(row, **more)  # type: ignore[arg-type]  # fields of Row by name


def failures(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.holds]


def table(rows: Iterable[Row]) -> str:
    """The rows as lines of equal width, for people."""
    head = ("figure", "what", "median", "range", "runs", "peak MB", "limit", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    spread = f"{_number(row.spread[0])}-{_number(row.spread[1])}" if row.spread else ""
    bound = row.limit if row.limit is not None else row.floor
    sign = "≤" if row.limit is not None else "≥"
    limit = "" if bound is None else f"{sign} {_number(bound)} {row.unit} {'kept' if row.holds else 'MISSED'}"
    peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
    value = "" if row.value is None else f"{_number(row.value)} {row.unit}"
    return (row.figure, row.what, value, spread, str(row.runs), peak, limit, row.note)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def write(path: Path, machine: dict[str, object], rows: Iterable[Row]) -> None:
    """The same as JSON, for machines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine, "rows": [dataclasses.asdict(row) | {"holds": row.holds} for row in rows]}
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
