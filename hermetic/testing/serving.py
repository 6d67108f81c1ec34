"""A stand-in for the proxy and the Triton behind it, as hooks see them: answers that a test chose, at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from hermetic.errors import Domain, HermeticError

__all__ = ["StandInServing"]


class StandInServing:
    """`up` are the engines that are reachable, `answers` what each says to everything, `hashes` what it says of itself;
    `asked` is what came in.
    """

    def __init__(self, *, up: tuple[str, ...] = ("",), **answers: str) -> None:
        self.registry = CollectorRegistry()
        self.up = set(up)
        self.answers = answers
        self.hashes: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def reachable(self, engine: str = "") -> bool:
        return engine in self.up

    async def promised(self, engine: str = "") -> Mapping[str, str]:
        return self.hashes.get(engine, {})

    async def chat(self, body: Mapping[str, Any], engine: str = "") -> dict[str, Any]:
        """Raises `HermeticError` (environment/triton-unreachable) for an engine that is not there."""
        self.asked.append((engine, body))
        if engine not in self.up:
            raise HermeticError(Domain.ENVIRONMENT, "triton-unreachable", "Triton is not there")
        message = {"role": "assistant", "content": self.answers.get(engine or "main", "Hello")}
        usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
