"""One answer: token ids in, parts of it out, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hermetic.serve.openai.hooks import Timings
from hermetic.serve.openai.parts import Call, Part, Parts
from hermetic.serve.openai.stops import StopStrings
from hermetic.serve.openai.tokenizer import Text

__all__ = ["Choice", "Scored"]


@dataclass(frozen=True)
class Scored:
    """A token, the bytes it stands for, and the natural logarithm of its probability."""

    token: int
    bytes: bytes
    logprob: float


@dataclass
class Choice:
    """`finished` is None until it ends: ``stop``, ``length`` or ``tool_calls``. `count` is in tokens, the ends too."""

    text: Text
    parts: Parts
    stops: Sequence[str] = ()
    max_tokens: int = 0
    finished: str | None = None
    count: int = 0
    timings: Timings = field(default_factory=Timings)
    called: bool = False

    def __post_init__(self) -> None:
        self._detokeniser = self.text.detokeniser()
        self._stops = StopStrings(self.stops)
        self._ends = frozenset(self.text.ends)
        self.scores: list[Scored] = []

    def feed(self, ids: Sequence[int], scores: Sequence[float] = ()) -> list[Part]:
        """The parts that are certain now. `scores` are kept until `take_scores`."""
        shown = self._until_end(ids)
        self._score(ids[: len(shown)], scores)
        parts = self._split(self._stops.feed(self._detokeniser.feed(shown)))
        if self._stops.stopped:
            self.finished = "stop"
        if self.finished is not None:
            return parts + self._last()
        return parts

    def end(self) -> list[Part]:
        """The engine has sent all it will."""
        if self.finished is not None:
            return []
        self.finished = "length" if self.count >= self.max_tokens else "stop"
        return self._last()

    def take_scores(self) -> list[Scored]:
        scores, self.scores = self.scores, []
        return scores

    def _until_end(self, ids: Sequence[int]) -> Sequence[int]:
        for index, one in enumerate(ids):
            if one in self._ends:
                self.count += index + 1
                self.finished = "stop"
                return ids[:index]
        self.count += len(ids)
        return ids

    def _score(self, ids: Sequence[int], scores: Sequence[float]) -> None:
        self.scores += [Scored(token, self.text.one(token), score) for token, score in zip(ids, scores, strict=False)]

    def _last(self) -> list[Part]:
        rest = "" if self._stops.stopped else self._stops.feed(self._detokeniser.end())
        if self._stops.stopped:
            self.finished = "stop"
        parts = self._split(rest + self._stops.end())
        parts += self._noted(self.parts.end())
        if self.called and self.finished == "stop":
            self.finished = "tool_calls"
        return parts

    def _split(self, text: str) -> list[Part]:
        return self._noted(self.parts.feed(text)) if text else []

    def _noted(self, parts: list[Part]) -> list[Part]:
        self.called = self.called or any(isinstance(part, Call) for part in parts)
        return parts
