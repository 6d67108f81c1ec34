"""The page as a document: everything in it, nothing of it run."""

from __future__ import annotations

from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hermetic.llm.policy import Window
from hermetic.serve.dashboard import Page, render
from hermetic.serve.policy.windows import Held
from hermetic.serve.readiness import ReadinessFacts, Reason, WarmUpState, reasons

SLOW = Held(Window(metric="llm.queue_delay_us", at_most=Decimal(2500)), 9000.0, 30)


def page(**changes: Any) -> Page:
    empty: dict[str, Any] = {"engine": {}, "manifest": {}, "provenance": {}, "windows": [], "figures": [], "signed": {}}
    return Page(**{"model": "qwen3", "at": "now", "reasons": [], "alerts": [], "roll_backs": []} | empty | changes)


class Reader(HTMLParser):
    """Tags that were opened and not closed, all tags, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_ready() -> None:
    found = Reader(render(page()))
    assert found.open == []
    assert "Everything holds." in found.words
    assert "Canary" not in found.words


def test_every_reason_is_shown() -> None:
    facts = ReadinessFacts(
        reachable=False,
        warm_up=WarmUpState.FAILED,
        warm_up_problem="wrong answer",
        switched="/srv/other",
        manifest=None,
        failing=[SLOW],
        unsigned=["module-6"],
        unwritten="disk full",
    )
    words = Reader(render(page(reasons=reasons(facts), windows=[SLOW], canary={"share": "5 %"}))).words
    codes = [
        "triton-not-ready",
        "warm-up-failed",
        "engine-switched",
        "manifest-missing",
        "window-exceeded",
        "sign-off-missing",
        "events-not-written",
    ]
    assert [one.code for one in reasons(facts)] == codes
    assert all(code in words for code in codes)
    assert "exceeded" in words
    assert "share5 %" in words


def test_events_and_figures() -> None:
    alert = {"at": "12:00", "reason": "cost_budget", "value": 0.2, "limit": 0.1, "recipient": "finance"}
    back = {"at": "13:00", "cause": "answers were wrong", "engine_hash": "blake3:e"}
    words = Reader(render(page(alerts=[alert], roll_backs=[back], figures=[SLOW]))).words
    for word in ("cost_budget", "0.2", "finance", "answers were wrong", "p95 9000"):
        assert word in words


@given(st.text("<>&\"'/sxcript=", max_size=30))
def test_nothing_that_comes_from_outside_is_markup(text: str) -> None:
    plain, mixed = (
        Reader(render(page(model=one, reasons=[Reason("x", one)], engine={one: one}, alerts=[{"reason": one}])))
        for one in ("plain", text)
    )
    assert mixed.tags == plain.tags
    assert mixed.open == []
