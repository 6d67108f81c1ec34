"""What a person sees while stages are realised: a live tree on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hermetic.realise.events import FINAL, Event

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Live", "Plain", "human_bytes", "human_time"]

_MARKS = {
    "in-place": "✔",
    "adopted": "✔",
    "built": "✔",
    "fetched": "✔",
    "failed": "✘",
    "skipped": "-",
    "waiting": "⏸",
    "planned": "⏸",
}


def human_bytes(count: float) -> str:
    """`count` bytes in decimal units, as disks and networks are sold: ``"1.4 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_time(seconds: float) -> str:
    """``"0.4s"``, ``"43s"``, ``"12m05s"``, ``"3h07m"``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


@dataclass
class Row:
    """What is known of one stage."""

    name: str
    state: str = "planned"
    started: float = 0.0
    entered: float = 0.0  # the state it is in, which its bytes are of
    ended: float = 0.0
    done: int = 0
    total: int | None = None
    what: str = ""
    last_line: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, now: float) -> float:
        return (self.ended or now) - self.started if self.started else 0.0


class State:
    """The rows of a run, changed by events and by nothing else."""

    def __init__(self, expected: Callable[[str], float | None] = lambda _: None) -> None:
        self.rows: dict[str, Row] = {}
        self.expected = expected

    def apply(self, event: Event) -> Row | None:
        if event.kind == "plan":
            self.rows = {step["key"]: Row(step["stage"]) for step in event.data["steps"]}
            return None
        row = self.rows.get(event.key)
        if row is None:
            return None
        if event.kind == "state":
            self._enter(row, event)
        elif event.kind == "progress":
            row.done, row.total = event.data["done"], event.data.get("total")
            row.what = event.data.get("what", "")
        elif event.kind == "output":
            row.last_line = event.data["line"]
        return row

    @staticmethod
    def _enter(row: Row, event: Event) -> None:
        row.state, row.data = event.data["state"], event.data
        row.done, row.total, row.what, row.entered = 0, None, "", event.at
        if row.state in FINAL:
            row.ended = event.at
        elif row.state != "waiting":
            row.started = row.started or event.at


def describe(row: Row, now: float, expected: float | None) -> str:
    """One row's right-hand side: what goes on, how much of it is done, how long it took or will take."""
    if row.state in ("in-place", "adopted", "built", "fetched"):
        how = "harvested" if row.data.get("outcome") == "harvested" else row.state
        tail = f"  {human_time(row.seconds(now))}" if row.state in ("built", "fetched") else ""
        tail += f"  warning: {row.data['warning']}" if row.data.get("warning") else ""
        return f"{how}  {human_bytes(row.data.get('size', 0))}{tail}"
    if row.state in ("planned", "waiting", "skipped", "failed"):
        because = row.data.get("because") or row.data.get("reason") or ""
        return f"{row.state}  {because}".rstrip()
    parts = [row.state, row.what] if row.what else [row.state]
    seconds = row.seconds(now)
    if row.done:
        parts.append(_amount(row, now - (row.entered or row.started)))
    parts.append(human_time(seconds))
    if expected and expected > seconds and row.state == "building":
        parts.append(f"about {human_time(expected - seconds)} left")
    return "  ".join(parts)


def _amount(row: Row, seconds: float) -> str:
    rate = row.done / seconds if seconds > 0 else 0.0
    text = human_bytes(row.done)
    if row.total:
        text += f" of {human_bytes(row.total)}"
    if rate:
        text += f"  {human_bytes(rate)}/s"
        if row.total and row.total > row.done:
            text += f"  {human_time((row.total - row.done) / rate)} left"
    return text


_SHOWN = FINAL | {"waiting", "building", "fetching"}


_PATIENCE = 5.0  # seconds between two lines about one stage's bytes


class Plain:
    """One line when a stage starts to run, one when it ends, and one every few seconds while bytes arrive."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "warning":
            sys.stderr.write(f"warning: {event.data['message']}\n")
        row = self.state.apply(event)
        if row is None or not self._worth_a_line(event, row):
            return
        self._last[event.key] = event.at
        line = describe(row, event.at, self.state.expected(row.name))
        sys.stderr.write(f"{_MARKS.get(row.state, '▸')} {row.name}  {line}\n")
        sys.stderr.flush()

    def _worth_a_line(self, event: Event, row: Row) -> bool:
        if event.kind == "progress":
            return event.at - self._last.setdefault(event.key, row.started) >= _PATIENCE
        return event.kind == "state" and row.state in _SHOWN

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Live:
    """A tree that is redrawn in place; when it closes, the finished rows stay on the screen."""

    def __init__(self, state: State) -> None:
        from rich.console import Console  # noqa: PLC0415  # heavy, and for terminals only
        from rich.live import Live as Screen  # noqa: PLC0415

        self.state = state
        self._lock = threading.Lock()
        self._screen = Screen(console=Console(stderr=True), get_renderable=self._render, refresh_per_second=8)

    def __call__(self, event: Event) -> None:
        if event.kind == "warning":
            self._screen.console.print(f"warning: {event.data['message']}", style="yellow", markup=False)
        with self._lock:
            self.state.apply(event)

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.__exit__(kind, error, trace)

    def _render(self) -> RenderableType:
        from rich.table import Table  # noqa: PLC0415  # as above
        from rich.text import Text  # noqa: PLC0415

        now = time.time()
        table = Table.grid(padding=(0, 2))
        with self._lock:
            rows = list(self.state.rows.values())
        for row in rows[-40:]:
            style = {"failed": "red", "built": "green", "adopted": "green", "fetched": "green", "in-place": "dim"}.get(
                row.state, ""
            )
            mark = _MARKS.get(row.state, "▸")
            table.add_row(Text(mark, style), Text(row.name, style), describe(row, now, self.state.expected(row.name)))
            if row.state == "building" and row.last_line:
                table.add_row("", "", Text(row.last_line[:100], "dim", no_wrap=True, overflow="ellipsis"))
        done = sum(row.state in FINAL for row in rows)
        table.add_row("∑", f"{done}/{len(rows)}", "")
        return table
