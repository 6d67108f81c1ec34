"""The page of a deployment: one HTML document from plain data. No script, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from hermetic.serve.policy.windows import Held
from hermetic.serve.readiness import Reason

__all__ = ["Page", "render"]

#: Seconds after which a browser asks again.
_REFRESH = 5
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --quiet: #6e7781; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1.5rem; }
header { align-items: baseline; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
.state { border-radius: 1rem; color: #fff; font-weight: 600; padding: .1rem .8rem; }
.ready { background: var(--good); } .unready { background: var(--bad); }
.quiet { color: var(--quiet); }
main { display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
section { border: 1px solid var(--line); border-radius: .5rem; overflow-x: auto; padding: 1rem; }
section.wide { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
ul { margin: 0; padding-left: 1.2rem; }
"""


@dataclass(frozen=True)
class Page:
    """What is shown; `at` is when, for people. `alerts` and `roll_backs` are events, the newest first."""

    model: str
    at: str
    reasons: Sequence[Reason]
    engine: Mapping[str, Any]
    manifest: Mapping[str, Any]
    provenance: Mapping[str, Any]
    windows: Sequence[Held]
    figures: Sequence[Held]
    signed: Mapping[str, str]
    alerts: Sequence[Mapping[str, Any]]
    roll_backs: Sequence[Mapping[str, Any]]
    canary: Mapping[str, Any] = field(default_factory=dict)


def render(page: Page) -> str:
    """The whole document, with everything in it escaped."""
    state = '<span class="state unready">not ready</span>' if page.reasons else '<span class="state ready">ready</span>'
    sections = [
        _section("Readiness", _reasons(page.reasons), "readiness", wide=True),
        _section("Engine", _facts(page.engine), "engine"),
        _section("Manifest", _facts(page.manifest), "manifest"),
        _section("Provenance", _facts(page.provenance), "provenance"),
        _section("Sign-off", _facts(page.signed), "sign-off"),
        _section("Last five minutes", _figures(page.figures), "metrics"),
        _section("Thresholds", _windows(page.windows), "thresholds"),
        *([_section("Canary", _facts(page.canary), "canary", wide=True)] if page.canary else []),
        _section("Alerts", _events(page.alerts, ("reason", "value", "limit", "recipient")), "alerts", wide=True),
        _section("Roll-backs", _events(page.roll_backs, ("cause", "engine_hash")), "roll-backs", wide=True),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{_REFRESH}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.model)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{escape(page.model)}</h1>{state}"
        f'<span class="quiet">as of {escape(page.at)}</span></header>'
        f"<main>{''.join(sections)}</main></body></html>"
    )


def _section(title: str, body: str, name: str, *, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f'<section id="{name}"{kind}><h2>{title}</h2>{body}</section>'


def _reasons(reasons: Sequence[Reason]) -> str:
    if not reasons:
        return '<p class="good">Everything holds.</p>'
    lines = (f'<li><b class="bad">{escape(one.code)}</b> {escape(one.message)}</li>' for one in reasons)
    return f"<ul>{''.join(lines)}</ul>"


def _facts(facts: Mapping[str, Any]) -> str:
    return _table((_row(name, _text(value)) for name, value in facts.items()), ())


def _figures(figures: Sequence[Held]) -> str:
    """A line for each figure that there is: how many, and each statistic of it."""
    by_metric: dict[str, list[Held]] = {}
    for one in figures:
        if one.value is not None:
            by_metric.setdefault(one.window.metric, []).append(one)
    rows = (
        _row(metric, ", ".join(f"{one.window.statistic} {one.value:g}" for one in held), str(held[0].requests))
        for metric, held in by_metric.items()
    )
    return _table(rows, ("figure", "value", "requests"))


def _windows(windows: Sequence[Held]) -> str:
    states = {True: ("holds", "good"), False: ("exceeded", "bad")}
    return _table((_row(states[one.holds][0], str(one), kind=states[one.holds][1]) for one in windows), ())


def _events(events: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    rows = (_row(str(one.get("at", "")), *(_text(one.get(name)) for name in names)) for one in events)
    return _table(rows, ("at", *names))


def _row(name: str, *values: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f"<tr><th{marked}>{escape(name)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"


def _table(rows: Iterable[str], titles: Sequence[str]) -> str:
    body = "".join(rows)
    if not body:
        return '<p class="quiet">none</p>'
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value)
    return "-" if value is None or value == "" else str(value)
