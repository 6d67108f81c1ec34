"""The warm-up: prompts that are answered, and rightly, before anybody else's are."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermetic.errors import HermeticError
from hermetic.llm.policy import WarmUp

__all__ = ["WarmedUp", "warm_up"]

Chat = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True)
class WarmedUp:
    """How it ended: `problem` is "" if every prompt was answered as expected. `latency_ms` is of each prompt."""

    problem: str
    latency_ms: tuple[float, ...]
    tokens_out: int


async def warm_up(
    prompts: Sequence[WarmUp], chat: Chat, model: str, clock: Callable[[], float] = time.monotonic
) -> WarmedUp:
    """Ask every prompt, one after the other, with temperature 0; stop at the first that is answered wrongly."""
    taken: list[float] = []
    tokens = 0
    for prompt in prompts:
        began = clock()
        try:
            answer = await chat(_body(prompt, model))
        except HermeticError as error:
            return WarmedUp(f"{prompt.prompt!r} was not answered: {error}", tuple(taken), tokens)
        taken.append(round((clock() - began) * 1000, 3))
        tokens += int(answer.get("usage", {}).get("completion_tokens", 0))
        text = _text(answer)
        if prompt.expect not in text:
            problem = f"{prompt.prompt!r} was answered with {text[:200]!r}, in which {prompt.expect!r} does not occur"
            return WarmedUp(problem, tuple(taken), tokens)
    return WarmedUp("", tuple(taken), tokens)


def _body(prompt: WarmUp, model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt.prompt}]
    return {"model": model, "messages": messages, "max_tokens": prompt.max_tokens, "temperature": 0}


def _text(answer: Mapping[str, Any]) -> str:
    message = answer["choices"][0]["message"]
    return "".join(str(message.get(name) or "") for name in ("reasoning_content", "content"))
