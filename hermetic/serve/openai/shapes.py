"""Answers in OpenAI's form: whole, and in the pieces of a stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hermetic.serve.openai.choice import Scored
from hermetic.serve.openai.parts import Call, Content, Part, Reasoning
from hermetic.serve.openai.settings import Thinking

__all__ = ["ChatShape", "CompletionShape", "Head", "Shape", "usage"]


@dataclass(frozen=True)
class Head:
    """What every piece of one answer says."""

    id: str
    created: int
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(prompt: int, completion: int) -> dict[str, int]:
    """In tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Shape(Protocol):
    """One of the two ways of asking."""

    def first(self, index: int) -> bytes:
        """The piece that opens an answer; may be empty."""

    def pieces(self, index: int, parts: Sequence[Part], scores: Sequence[Scored]) -> bytes:
        """What a stream says of new parts; may be empty."""

    def last(self, index: int, finished: str, scores: Sequence[Scored]) -> bytes:
        """The piece that closes an answer."""

    def total(self, used: dict[str, int]) -> bytes:
        """The piece that says what was used."""

    def whole(self, answers: Sequence[tuple[list[Part], list[Scored], str]], used: dict[str, int]) -> dict[str, Any]:
        """Everything at once; `answers` have parts, scores and why they ended."""


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


class ChatShape:
    """``chat.completion``. `thinking` is ``strip`` or anything else; with `counted` a stream ends with its usage."""

    def __init__(self, head: Head, thinking: Thinking, *, scored: bool, counted: bool) -> None:
        self._head, self._strip, self._scored, self._counted = head, thinking == "strip", scored, counted
        self._calls: dict[int, int] = {}

    def _piece(self, index: int, delta: dict[str, Any], finished: str | None, scores: Sequence[Scored]) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _chat_scores(scores, self._scored),
            "finish_reason": finished,
        }
        said = {**self._head.fields("chat.completion.chunk"), "choices": [choice]}
        return _event(said | ({"usage": None} if self._counted else {}))

    def first(self, index: int) -> bytes:
        return self._piece(index, {"role": "assistant", "content": ""}, None, ())

    def pieces(self, index: int, parts: Sequence[Part], scores: Sequence[Scored]) -> bytes:
        said = []
        for part in parts:
            if not (self._strip and isinstance(part, Reasoning)):
                said.append(self._piece(index, self._delta(index, part), None, scores))
                scores = ()
        return b"".join(said) or (self._piece(index, {}, None, scores) if scores else b"")

    def _delta(self, index: int, part: Part) -> dict[str, Any]:
        if isinstance(part, Content):
            return {"content": part.text}
        if isinstance(part, Reasoning):
            return {"reasoning_content": part.text}
        number = self._calls.get(index, 0)
        self._calls[index] = number + 1
        return {"tool_calls": [{"index": number, **_call(part)}]}

    def last(self, index: int, finished: str, scores: Sequence[Scored]) -> bytes:
        return self._piece(index, {}, finished, scores)

    def total(self, used: dict[str, int]) -> bytes:
        return _event({**self._head.fields("chat.completion.chunk"), "choices": [], "usage": used})

    def whole(self, answers: Sequence[tuple[list[Part], list[Scored], str]], used: dict[str, int]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self._message(parts),
                "logprobs": _chat_scores(scores, self._scored),
                "finish_reason": finished,
            }
            for index, (parts, scores, finished) in enumerate(answers)
        ]
        return {**self._head.fields("chat.completion"), "choices": choices, "usage": used}

    def _message(self, parts: Sequence[Part]) -> dict[str, Any]:
        content = "".join(part.text for part in parts if isinstance(part, Content))
        thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
        calls = [_call(part) for part in parts if isinstance(part, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
        if thought and not self._strip:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        return message


def _call(part: Call) -> dict[str, Any]:
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}


def _chat_scores(scores: Sequence[Scored], wanted: bool) -> dict[str, Any] | None:
    if not wanted:
        return None
    content = [
        {
            "token": one.bytes.decode("utf-8", "replace"),
            "logprob": one.logprob,
            "bytes": list(one.bytes),
            "top_logprobs": [],
        }
        for one in scores
    ]
    return {"content": content, "refusal": None}


class CompletionShape:
    """``text_completion``."""

    def __init__(self, head: Head, *, scored: bool, counted: bool) -> None:
        self._head, self._scored, self._counted = head, scored, counted
        self._offsets: dict[int, int] = {}

    def _choice(self, index: int, text: str, finished: str | None, scores: Sequence[Scored]) -> dict[str, Any]:
        logprobs = self._scores(index, scores) if self._scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finished}

    def _scores(self, index: int, scores: Sequence[Scored]) -> dict[str, Any]:
        tokens = [one.bytes.decode("utf-8", "replace") for one in scores]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token)
        logprobs = [one.logprob for one in scores]
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": None, "text_offset": offsets}

    def _piece(self, choices: list[dict[str, Any]], used: dict[str, int] | None = None) -> bytes:
        said = {**self._head.fields("text_completion"), "choices": choices}
        return _event(said | ({"usage": used} if self._counted else {}))

    def first(self, index: int) -> bytes:  # noqa: ARG002
        return b""

    def pieces(self, index: int, parts: Sequence[Part], scores: Sequence[Scored]) -> bytes:
        text = _text(parts)
        return self._piece([self._choice(index, text, None, scores)]) if text or scores else b""

    def last(self, index: int, finished: str, scores: Sequence[Scored]) -> bytes:
        return self._piece([self._choice(index, "", finished, scores)])

    def total(self, used: dict[str, int]) -> bytes:
        return self._piece([], used)

    def whole(self, answers: Sequence[tuple[list[Part], list[Scored], str]], used: dict[str, int]) -> dict[str, Any]:
        choices = [
            self._choice(index, _text(parts), finished, scores)
            for index, (parts, scores, finished) in enumerate(answers)
        ]
        return {**self._head.fields("text_completion"), "choices": choices, "usage": used}


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))
