"""What a deployment's policies are asked and told by the proxy. `NoHooks` is a deployment without any.

All calls come from the event loop's thread and must not block; what takes time (a webhook) is handed to a task of the
hooks' own, begun in `start` and ended in `stop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.routing import BaseRoute

    from hermetic.serve.policy.side import Engine

__all__ = ["Facts", "Hooks", "NoHooks", "Outcome", "Passed", "Refusal", "Serving", "Timings"]


@dataclass(frozen=True)
class Facts:
    """A request that is well-formed, before it is sent on.

    `endpoint` is ``chat.completions`` or ``completions``; `body` is what the client sent, so a parameter that is
    not in it was not chosen by the client. `prompt_tokens` is the longest of its prompts, `max_tokens` what one answer
    would get without any default of a policy, both in tokens; `choices` is how many answers are asked for (``n`` times
    prompts). `schema` is the JSON schema that the answer must have, if one. `engine` is what `route` said.
    """

    id: str
    endpoint: str
    model: str
    body: Mapping[str, Any]
    prompt_tokens: int
    max_tokens: int
    choices: int = 1
    stream: bool = False
    schema: Mapping[str, Any] | None = None
    schema_name: str | None = None
    engine: str = ""


@dataclass(frozen=True)
class Refusal:
    """Answered as OpenAI's error object: `code` (``token_budget_overrun``), `param` where one parameter is at fault."""

    status: int
    code: str
    message: str
    param: str | None = None
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Passed:
    """Goes on. `defaults` are parameters of the API (``temperature``, ``max_tokens``, ``response_format``, ...) that
    count where the client gave none; `headers` are added to the answer.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timings:
    """What Triton said of one answer: times in ns of its clock, blocks of its KV cache, tokens of speculation.

    None where the backend has no such output.
    """

    arrival_ns: int | None = None
    first_scheduled_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    kv_blocks: int | None = None
    kv_blocks_reused: int | None = None
    draft_tokens: int | None = None
    accepted_tokens: int | None = None

    @property
    def queue_delay_us(self) -> float | None:
        """From arrival to the first computation, in microseconds."""
        if self.arrival_ns is None or self.first_scheduled_ns is None:
            return None
        return (self.first_scheduled_ns - self.arrival_ns) / 1000


@dataclass(frozen=True)
class Outcome:
    """How a request ended; every `Facts` that passed gets exactly one.

    `status` is the HTTP status, 499 if the client went away, that of the error if a stream broke off; `error` is the
    error's code then. `completion_tokens` is the sum of all answers, `finish_reasons` and `timings` are one each.
    `ttft_s` and `duration_s` are seconds of the proxy's clock since the request was read.
    """

    status: int
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    finish_reasons: Sequence[str]
    timings: Sequence[Timings]
    ttft_s: float | None
    duration_s: float


class Serving(Protocol):
    """What hooks may ask of the proxy."""

    registry: CollectorRegistry  #: What ``/metrics`` shows.

    async def reachable(self, engine: str = "") -> bool:
        """Whether Triton is ready to answer for this engine now."""

    async def promised(self, engine: str = "") -> Mapping[str, str]:
        """``engine_hash`` and ``tokenizer_hash`` as Triton says them; what it does not say is missing."""

    async def chat(self, body: Mapping[str, Any], engine: str = "") -> dict[str, Any]:
        """A chat completion that no hook sees, as for a warm-up. Raises `HermeticError` if there is none."""


class Hooks(Protocol):
    """The policies of a deployment."""

    async def start(self, serving: Serving) -> None:
        """The proxy is about to listen. Warming up may not be waited for here: it is `unready` meanwhile."""

    async def stop(self) -> None:
        """All requests have ended."""

    def route(self, endpoint: str, headers: Mapping[str, str]) -> str:
        """The engine that is to answer, ``""`` for the first; header names are in lower case."""

    def before(self, facts: Facts, headers: Mapping[str, str]) -> Refusal | Passed:
        """Whether the request may go on; header names are in lower case."""

    def after(self, facts: Facts, outcome: Outcome) -> None:
        """The request has ended."""

    async def unready(self) -> Sequence[str]:
        """Why this deployment is not ready, apart from Triton's own readiness; empty if it is."""

    async def reload(self) -> str:
        """Read the policy again, for the requests that come from now on. Why it was not taken, "" if it was: then
        everything is as before.
        """

    def notices(self) -> Sequence[str]:
        """What somebody should see to, although this deployment may be ready."""

    async def exchange(self, engine: Engine, key: str, switch: Callable[[], None]) -> None:
        """Try `engine`, which the proxy knows as `key`, and then have it take the place of the first by `switch`.

        Raises `HermeticError` where it is not taken: then everything is as before.
        """

    def routes(self) -> Sequence[BaseRoute]:
        """Further pages: ``/dashboard``."""


class NoHooks:
    """No policy: everything passes."""

    async def start(self, serving: Serving) -> None:
        pass

    async def stop(self) -> None:
        pass

    def route(self, endpoint: str, headers: Mapping[str, str]) -> str:  # noqa: ARG002
        return ""

    def before(self, facts: Facts, headers: Mapping[str, str]) -> Refusal | Passed:  # noqa: ARG002
        return Passed()

    def after(self, facts: Facts, outcome: Outcome) -> None:
        pass

    async def unready(self) -> Sequence[str]:
        return ()

    async def reload(self) -> str:
        return ""

    def notices(self) -> Sequence[str]:
        return ()

    async def exchange(self, engine: Engine, key: str, switch: Callable[[], None]) -> None:  # noqa: ARG002
        switch()

    def routes(self) -> Sequence[BaseRoute]:
        return ()
