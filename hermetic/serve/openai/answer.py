"""One request from its body to its answer: checked, let in, asked, shaped, and told to the hooks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hermetic.serve.openai.bodies import Body, ChatBody, CompletionBody, parse
from hermetic.serve.openai.choice import Scored
from hermetic.serve.openai.engine import Engine
from hermetic.serve.openai.errors import ApiError
from hermetic.serve.openai.hooks import Facts, Hooks, Outcome, Refusal
from hermetic.serve.openai.parts import Part
from hermetic.serve.openai.plan import Plan, length_of, plan, prompts, schema_of, wants_scores
from hermetic.serve.openai.settings import ProxySettings
from hermetic.serve.openai.shapes import ChatShape, CompletionShape, Head, Shape, usage
from hermetic.serve.openai.slots import Slots

__all__ = ["BODIES", "Answer", "Asked", "planned"]

BODIES: Final[Mapping[str, type[Body]]] = {"chat.completions": ChatBody, "completions": CompletionBody}
_PREFIXES: Final = {"chat.completions": "chatcmpl-", "completions": "cmpl-"}
#: Longer texts are tokenised beside the event loop, which others wait for.
_LONG: Final = 16 << 10


@dataclass(frozen=True)
class Asked:
    """A request as it came. `headers` have names in lower case; `began` is of `time.monotonic`."""

    id: str
    endpoint: str
    said: Mapping[str, Any]
    headers: Mapping[str, str]
    size: int
    began: float = field(default_factory=time.monotonic)


async def planned(asked: Asked, engine: Engine, hooks: Hooks, route: str, settings: ProxySettings) -> Answer:
    """Check everything that can be checked before the engine is asked. Raises `ApiError`."""
    body = parse(BODIES[asked.endpoint], asked.said)
    if asked.size > _LONG:
        found = await asyncio.to_thread(prompts, body, engine, settings.thinking)
    else:
        found = prompts(body, engine, settings.thinking)
    facts = _facts(asked, body, found.longest, len(found.ids), engine, route)
    passed = hooks.before(facts, asked.headers)
    if isinstance(passed, Refusal):
        raise _refused(passed)
    if passed.defaults:
        body = _with_defaults(asked, passed.defaults)
    try:
        made = _fitting(plan(body, found, engine), settings)
    except ApiError as error:
        hooks.after(facts, Outcome(error.status, error.code, facts.prompt_tokens, 0, (), (), None, 0.0))
        raise
    return Answer(asked, body, made, facts, engine, hooks, settings, dict(passed.headers))


def _fitting(made: Plan, settings: ProxySettings) -> Plan:
    if len(made.asks) > settings.concurrent:
        message = f"{len(made.asks)} answers are more than the {settings.concurrent} that are computed at once"
        raise ApiError(400, "too_many_answers", message, param="n")
    return made


def _with_defaults(asked: Asked, defaults: Mapping[str, Any]) -> Body:
    """The request with what the client did not say."""
    said = {name: value for name, value in asked.said.items() if value is not None}
    if "max_completion_tokens" in said:
        defaults = {name: value for name, value in defaults.items() if name != "max_tokens"}
    return parse(BODIES[asked.endpoint], {**defaults, **said})


def _facts(asked: Asked, body: Body, prompt: int, count: int, engine: Engine, route: str) -> Facts:
    schema = schema_of(body)
    return Facts(
        id=asked.id,
        endpoint=asked.endpoint,
        model=body.model,
        body=asked.said,
        prompt_tokens=prompt,
        max_tokens=length_of(body, prompt, engine),
        choices=count * (body.n or 1),
        stream=bool(body.stream),
        schema=schema.schema_ if schema else None,
        schema_name=schema.name if schema else None,
        engine=route,
    )


def _refused(refusal: Refusal) -> ApiError:
    return ApiError(
        refusal.status,
        refusal.code,
        refusal.message,
        param=refusal.param,
        kind=refusal.kind,
        headers=refusal.headers,
    )


@dataclass
class Answer:
    """What is sent back. `stream` or `whole`, once; either tells the hooks how it went, however it ends."""

    asked: Asked
    body: Body
    plan: Plan
    facts: Facts
    engine: Engine
    hooks: Hooks
    settings: ProxySettings
    headers: dict[str, str]
    on_end: Callable[[str, Facts, Outcome], None] | None = None

    def __post_init__(self) -> None:
        self.choices = [self.plan.choice(self.engine, index) for index in range(len(self.plan.asks))]
        self.outcome: Outcome | None = None
        self._first: float | None = None
        self._shape = self._shaped()

    def _shaped(self) -> Shape:
        head = Head(
            f"{_PREFIXES[self.facts.endpoint]}{self.asked.id}",
            int(time.time()),
            self.body.model,
            self.engine.fingerprint,
        )
        scored, counted = wants_scores(self.body), self.body.include_usage
        if isinstance(self.body, ChatBody):
            return ChatShape(head, self.settings.thinking, scored=scored, counted=counted)
        return CompletionShape(head, scored=scored, counted=counted)

    async def whole(self, slots: Slots) -> dict[str, Any]:
        """All of it. Raises `ApiError`."""
        answers: list[tuple[list[Part], list[Scored]]] = [([], []) for _ in self.choices]
        async with contextlib.aclosing(self._told(slots)) as steps:
            async for index, parts in steps:
                answers[index][0].extend(parts)
                answers[index][1].extend(self.choices[index].take_scores())
        ended = [(*answer, choice.finished or "stop") for answer, choice in zip(answers, self.choices, strict=True)]
        return self._shape.whole(ended, self._used())

    async def stream(self, slots: Slots) -> AsyncGenerator[bytes, None]:
        """Its pieces. Raises `ApiError` before the first; an error after it is the last piece."""
        shape, opened = self._shape, [False] * len(self.choices)
        begun = False
        try:
            async with contextlib.aclosing(self._told(slots)) as steps:
                async for index, parts in steps:
                    choice = self.choices[index]
                    data = b"" if opened[index] else shape.first(index)
                    opened[index] = True
                    scores = choice.take_scores()
                    if choice.finished is None:
                        data += shape.pieces(index, parts, scores)
                    else:
                        data += shape.pieces(index, parts, scores if parts else ())
                        data += shape.last(index, choice.finished, () if parts else scores)
                    if data:
                        begun = True
                        yield data
        except ApiError as error:
            if not begun:
                raise
            yield b"data: " + error.encoded() + b"\n\n"
            return
        if self.body.include_usage:
            yield shape.total(self._used())
        yield b"data: [DONE]\n\n"

    def _used(self) -> dict[str, int]:
        each = self.body.n or 1
        prompt = sum(len(ask.ids) for ask in self.plan.asks[::each])
        return usage(prompt, sum(choice.count for choice in self.choices))

    async def _told(self, slots: Slots) -> AsyncGenerator[tuple[int, list[Part]], None]:
        """`_steps`, after which the hooks know how it went."""
        status, error = 499, "client_gone"
        try:
            async with slots.take(len(self.choices)), contextlib.aclosing(self._steps()) as steps:
                async for step in steps:
                    self._first = self._first or time.monotonic()
                    yield step
            status, error = 200, ""
        except ApiError as failure:
            status, error = failure.status, failure.code
            raise
        except Exception:
            status, error = 500, "internal_error"
            raise
        finally:
            self._end(status, error or None)

    def abandon(self) -> None:
        """Nobody wants it any more; if it was never begun, the hooks hear of it here."""
        if self.outcome is None:
            self._end(499, "client_gone")

    def _end(self, status: int, error: str | None) -> None:
        began, now = self.asked.began, time.monotonic()
        self.outcome = Outcome(
            status=status,
            error=error,
            prompt_tokens=self._used()["prompt_tokens"],
            completion_tokens=self._used()["completion_tokens"],
            finish_reasons=[choice.finished or "" for choice in self.choices],
            timings=[choice.timings for choice in self.choices],
            ttft_s=self._first - began if self._first is not None else None,
            duration_s=now - began,
        )
        if self.on_end is not None:
            self.on_end(self.engine.model, self.facts, self.outcome)
        self.hooks.after(self.facts, self.outcome)

    async def _steps(self) -> AsyncGenerator[tuple[int, list[Part]], None]:
        """What each answer has more, by its index."""
        if len(self.choices) == 1:
            async with contextlib.aclosing(self._one(0)) as steps:
                async for parts in steps:
                    yield 0, parts
            return
        queue: asyncio.Queue[tuple[int, list[Part] | Exception | None]] = asyncio.Queue()
        tasks = [asyncio.ensure_future(self._into(queue, index)) for index in range(len(self.choices))]
        try:
            left = len(tasks)
            while left:
                index, step = await queue.get()
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    left -= 1
                else:
                    yield index, step
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _into(self, queue: asyncio.Queue[tuple[int, list[Part] | Exception | None]], index: int) -> None:
        """An answer among several; None is its end."""
        try:
            async with contextlib.aclosing(self._one(index)) as steps:
                async for parts in steps:
                    queue.put_nowait((index, parts))
        except Exception as error:  # noqa: BLE001  # raised where the queue is read
            queue.put_nowait((index, error))
        else:
            queue.put_nowait((index, None))

    async def _one(self, index: int) -> AsyncGenerator[list[Part], None]:
        choice, ask = self.choices[index], self.plan.asks[index]
        left = self.settings.deadline_s - (time.monotonic() - self.asked.began)
        generated = self.engine.upstream.generate(ask, f"{self.asked.id}-{index}", max(left, 0.001), self._trace())
        async with contextlib.aclosing(generated) as responses:
            async for made in responses:
                if made.timings is not None:
                    choice.timings = made.timings
                yield choice.feed(made.ids, made.scores)
                if choice.finished is not None:
                    return
        yield choice.end()

    def _trace(self) -> Sequence[tuple[str, str]]:
        names = ("traceparent", "tracestate")
        return [(name, self.asked.headers[name]) for name in names if name in self.asked.headers]
