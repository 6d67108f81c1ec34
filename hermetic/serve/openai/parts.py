"""Text into what a client shows, what the model thought, and what tools it calls: the marks of Qwen and Hermes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hermetic.serve.openai.stops import held_back

__all__ = ["Call", "Content", "Part", "Parts", "Reasoning"]

_THINK: Final = ("<think>", "</think>")
_CALL: Final = ("<tool_call>", "</tool_call>")


@dataclass(frozen=True)
class Content:
    """For the client to show."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Thought aloud."""

    text: str


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True)
class Call:
    """Of a tool. `arguments` is JSON, as text; `id` is for the client to answer with."""

    name: str
    arguments: str
    id: str = field(default_factory=_new_id, compare=False)


Part = Content | Reasoning | Call


class Parts:
    """Splits one answer's text wherever it is cut: the parts, joined, are the same for any cut.

    `thinking` looks for ``<think>``, at the beginning only; `inside` says that the prompt has begun it. `calls` looks
    for ``<tool_call>`` around one JSON object with name and arguments; what is none stays content. With `forced` the
    whole text is one such object without marks, because the engine was made to write it.
    """

    def __init__(
        self, *, thinking: bool = False, inside: bool = False, calls: bool = False, forced: bool = False
    ) -> None:
        self._calls = calls
        self._state: Callable[[bool], list[Part] | None] = self._content
        if thinking:
            self._state = self._begun if inside else self._beginning
        elif forced:
            self._state = self._whole
        self._held = ""
        self._trim = False

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now and were not before."""
        self._held += text
        return self._run(last=False)

    def end(self) -> list[Part]:
        """The rest."""
        return self._run(last=True)

    def _run(self, *, last: bool) -> list[Part]:
        parts: list[Part] = []
        while (found := self._state(last)) is not None:
            parts += found
        return parts

    def _beginning(self, last: bool) -> list[Part] | None:
        """Nothing but space so far."""
        text = self._held.lstrip()
        if text.startswith(_THINK[0]):
            self._held = text[len(_THINK[0]) :]
            self._state = self._begun
            return []
        if not last and _THINK[0].startswith(text):
            return None
        self._state = self._content
        return []

    def _begun(self, last: bool) -> list[Part] | None:
        """Behind ``<think>``: the model ends that line."""
        if not self._held and not last:
            return None
        self._held = self._held.removeprefix("\n")
        self._state = self._thought
        return []

    def _thought(self, last: bool) -> list[Part] | None:
        before, found = self._until(_THINK[1], last)
        if found:
            self._state, self._trim = self._content, True
        return [Reasoning(before)] if before else [] if found else None

    def _content(self, last: bool) -> list[Part] | None:
        if self._trim:
            self._held = self._held.lstrip()
            self._trim = not self._held
        if not self._calls:
            before, self._held, found = self._held, "", False
        else:
            before, found = self._until(_CALL[0], last)
        if found:
            self._state = self._call
        return [Content(before)] if before else [] if found else None

    def _call(self, last: bool) -> list[Part] | None:
        place = self._held.find(_CALL[1])
        if place < 0 and not last:
            return None
        inner = self._held[:place] if place >= 0 else self._held
        self._held = self._held[place + len(_CALL[1]) :] if place >= 0 else ""
        self._state = self._content
        call = _parsed(inner)
        if call is not None:
            self._trim = True
            return [call]
        return [Content(_CALL[0] + inner + (_CALL[1] if place >= 0 else ""))]

    def _whole(self, last: bool) -> list[Part] | None:
        if not last or not self._held:
            return None
        text, self._held = self._held, ""
        return [_parsed(text) or Content(text)]

    def _until(self, mark: str, last: bool) -> tuple[str, bool]:
        """What stands before `mark`, and whether it has come; what may be its beginning is held."""
        before, found, after = self._held.partition(mark)
        if found:
            self._held = after
            return before, True
        kept = len(before) if last else len(before) - held_back(before, (mark,))
        self._held = before[kept:]
        return before[:kept], False


def _parsed(text: str) -> Call | None:
    try:
        said = json.loads(text)
        name, arguments = said["name"], said.get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    return Call(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
