"""A policy at work: the proxy's hooks. What it decides is in modules beside it; here is what it remembers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import Policy, PolicyFile
from hermetic.serve.dashboard_routes import routes
from hermetic.serve.openai.hooks import Facts, Outcome, Passed, Refusal, Serving
from hermetic.serve.policy.admission import Admitted, admit
from hermetic.serve.policy.alerts import Alerts
from hermetic.serve.policy.decisions import Figures, Identity, after
from hermetic.serve.policy.events import (
    POLICY_REJECTED,
    POLICY_RELOADED,
    PUBLISHED,
    WARM_UP_FAILED,
    WARMED_UP,
    EventLog,
)
from hermetic.serve.policy.figures import figures_of, request_line
from hermetic.serve.policy.manifests import PromptRuntimeManager, RuntimeManifest, for_engine
from hermetic.serve.policy.metrics import Labels, Metrics
from hermetic.serve.policy.rules import Past, Rules
from hermetic.serve.policy.side import SHOWN, Engine, Side
from hermetic.serve.policy.warming import warm_up
from hermetic.serve.policy.windows import Windows
from hermetic.serve.readiness import ReadinessFacts, Reason, WarmUpState, reasons, seal_of

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

__all__ = ["Clocks", "PolicyHooks"]

_LOST: Final = frozenset({502, 503})
_LOOK_EVERY_S: Final = 1.0
_DELIVERY_S: Final = 5.0


@dataclass(frozen=True)
class Clocks:
    """Time, for tests to hold: `now` gives seconds that only grow."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


class PolicyHooks:
    """The hooks of one deployment with one engine. Raises `HermeticError` for what the policy names and is not sound.

    `model` is what clients call it; `read` gives the policy file as it is when it is to be read again.
    """

    def __init__(
        self,
        file: PolicyFile,
        model: str,
        engine: Engine,
        *,
        log: EventLog | None = None,
        clocks: Clocks | None = None,
        read: Callable[[], PolicyFile] | None = None,
    ) -> None:
        self.model = model
        self.clocks = clocks or Clocks()
        self._log, self._read = log, read or (lambda: file)
        self.rules = self._rules_of(file)
        self.side = self.new_side("", engine)
        self._past = Past()
        self._rejected = ""
        self._running: dict[str, tuple[Rules, Side, Admitted]] = {}
        self._switching = False
        self._published = {str(one.get("engine_hash")) for one in self.log.all([PUBLISHED])}
        self._tasks: set[asyncio.Task[None]] = set()
        self.serving: Serving
        self.metrics: Metrics

    @property
    def policy(self) -> Policy:
        return self.rules.policy

    @property
    def log(self) -> EventLog:
        return self.rules.log

    @property
    def alerts(self) -> Alerts:
        return self.rules.alerts

    def _rules_of(self, file: PolicyFile) -> Rules:
        return Rules.of(file, self._log, self.clocks.now, self.clocks.sleep)

    async def reload(self) -> str:
        """In a thread, so that requests are answered meanwhile. What the file says is in force from one request to the
        next; those that run are judged by what they were admitted by.
        """
        try:
            rules = await asyncio.to_thread(lambda: self._rules_of(self._read()))
        except HermeticError as error:
            problem = self.rules.redactor.text(str(error))
            self._rejected = f"policy-rejected: the policy of {self._digest()} stays in force: {problem}"
            self.alerts.record(POLICY_REJECTED, **self.identified(self.side), policy=self._digest(), cause=problem)
            return problem
        self._adopt(rules)
        return ""

    def _adopt(self, rules: Rules) -> None:
        old, self.rules, self._rejected = self.rules, rules, ""
        self._past.add(old, (one for one, _, _ in self._running.values()))
        rules.alerts.go_on_from(old.alerts)
        for side in self.sides():
            side.windows, side.failing = side.windows.asked_for(rules.policy.windows()), frozenset()
            if rules.policy.readiness.warm_up != old.policy.readiness.warm_up:
                self.spawn(self.warm(side))
        more = {"policy": self._digest(), "before": old.file.digest[:16]}
        self.alerts.record(POLICY_RELOADED, **self.identified(self.side), **more)

    async def exchange(self, engine: Engine, key: str, switch: Callable[[], None]) -> None:
        """As `Hooks.exchange`. Meanwhile it is no reason not to be ready that the link shows another engine."""
        side = self.new_side(key, engine)
        self._switching = True
        try:
            await self.warm(side)
            problems = [*([side.warmed.problem] if side.warmed and side.warmed.problem else [])]
            problems += side.mismatches(await self.serving.promised(key))
            if problems:
                raise HermeticError(Domain.ENVIRONMENT, "warm-up-failed", "; ".join(problems))
            switch()
            side.key, former, self.side = "", self.side, side
        finally:
            self._switching = False
        cause = f"the link shows it instead of {former.identity.engine_hash}"
        self._published.add(side.identity.engine_hash)
        self.alerts.record(PUBLISHED, **self.identified(side), cause=cause)

    def notices(self) -> Sequence[str]:
        return [self._rejected] if self._rejected else []

    def sides(self) -> Sequence[Side]:
        """All that may answer."""
        return [self.side]

    def _digest(self) -> str:
        """The beginning of the SHA-256 of the policy file that is in force."""
        return self.rules.file.digest[:16]

    def new_side(self, key: str, engine: Engine) -> Side:
        now = self.clocks.now
        return Side(key, engine, Windows(self.policy.windows(), now), Windows(SHOWN, now))

    async def start(self, serving: Serving) -> None:
        self.serving = serving
        self.metrics = Metrics(serving.registry)
        self.spawn(self.warm(self.side))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._past.finish(self.rules, _DELIVERY_S)

    def route(self, endpoint: str, headers: Mapping[str, str]) -> str:  # noqa: ARG002
        return ""

    def side_of(self, key: str) -> Side:  # noqa: ARG002
        return self.side

    def named_by(self, side: Side, headers: Mapping[str, str]) -> Identity:  # noqa: ARG002
        """What a request to `side` must name in its headers."""
        return side.identity

    def before(self, facts: Facts, headers: Mapping[str, str]) -> Refusal | Passed:
        side, rules = self.side_of(facts.engine), self.rules
        answer, admitted = admit(rules.policy, rules.registry, self.named_by(side, headers), facts, headers)
        answer = replace(answer, headers={**answer.headers, **side.identity.headers})
        for breach in admitted.breaches:
            self.metrics.breach(breach)
            self.alerts.breach(breach, self._about(side, facts, admitted))
        if isinstance(answer, Passed):
            self._running[facts.id] = (rules, side, admitted)
        else:
            self.log.tell("llm.request_refused", code=answer.code, **self._about(side, facts, admitted))
        return answer

    def after(self, facts: Facts, outcome: Outcome) -> None:
        unknown = (self.rules, self.side_of(facts.engine), Admitted())
        rules, side, admitted = self._running.pop(facts.id, unknown)
        figures = figures_of(outcome, admitted)
        cost = rules.policy.prices.cost(figures.prompt_tokens, figures.completion_tokens, admitted.template)
        labels = Labels(self.model, admitted.schema_id, admitted.operation or facts.endpoint, side.identity.engine_hash)
        self.metrics.record(labels, figures, cost)
        about = self._about(side, facts, admitted)
        breaches = after(rules.policy, figures)
        line = request_line(figures, admitted, outcome, breaches, about)
        rules.log.tell("llm.request", **line, cost_usd=float(cost))
        for breach in breaches:
            self.metrics.breach(breach)
            rules.alerts.breach(breach, about)
        if outcome.status in _LOST and any(side is one for one in self.sides()):
            self._lost(side)
        if not 400 <= outcome.status < 500:  # what the client did says nothing of the engine
            side.record(figures, cost)
            self.watch(side)
            self.ended(side, figures)

    def ended(self, side: Side, figures: Figures) -> None:
        """A request of `side` has been counted; for who decides about engines."""

    async def unready(self) -> Sequence[str]:
        """Every reason, as one line each; Triton's own readiness is the proxy's to say."""
        return [self.rules.redactor.text(str(one)) for one in await self.reasons() if one.code != "triton-not-ready"]

    def routes(self) -> Sequence[BaseRoute]:
        return routes(self)

    async def reasons(self) -> tuple[Reason, ...]:
        """Why the engine that is served is not ready, all of it."""
        side = self.side
        reachable = await self.serving.reachable(side.key)
        if not reachable:
            self._lost(side)
        self.watch(side, now=True)
        manager = self.manager()
        facts = ReadinessFacts(
            reachable=reachable,
            warm_up=side.warm,
            warm_up_problem=side.warmed.problem if side.warmed else "",
            mismatches=side.mismatches(await self.serving.promised(side.key)),
            switched="" if self._switching else side.engine.switched(),
            manifest=self._differences(manager),
            failing=tuple(side.windows.failing()),
            unsigned=self.rules.sign_offs.missing(self.policy.readiness.sign_off, self.seal()),
            unwritten=self.alerts.unwritten,
        )
        found = reasons(facts)
        if not found:
            self.publish(side, "it is ready for the first time")
        return found

    def publish(self, side: Side, cause: str) -> None:
        """Log that an engine may be sent requests, once for each engine in the life of the log."""
        if side.identity.engine_hash not in self._published:
            self._published.add(side.identity.engine_hash)
            self.alerts.record(PUBLISHED, **self.identified(side), cause=cause)

    def canary_facts(self) -> dict[str, Any]:
        """Of a trial that runs or has run; nothing without one."""
        return {}

    def manager(self) -> PromptRuntimeManager | None:
        """For the runtime manifest of the engine that is served."""
        found: RuntimeManifest | None = for_engine(self.rules.manifests, self.side.identity.engine_hash)
        return PromptRuntimeManager(found, self.policy, self.side.identity) if found is not None else None

    def _differences(self, manager: PromptRuntimeManager | None) -> list[str] | None:
        if manager is None:
            return None if self.policy.runtime_manifests else []
        return [str(one) for one in manager.mismatches()]

    def seal(self) -> str:
        identity = self.side.identity
        return seal_of(identity.engine_hash, identity.tokenizer_hash, self.rules.file.digest)

    def watch(self, side: Side, *, now: bool = False) -> None:
        """Alert for each window that holds no more, once until it holds again. Looks once a second, or `now`: it sorts
        all that is in the windows.
        """
        clock = self.clocks.now()
        if not now and clock - side.watched < _LOOK_EVERY_S:
            return
        side.watched = clock
        failing = {one.window.model_dump_json(): one for one in side.windows.failing()}
        for name, held in failing.items():
            if name not in side.failing:
                self.alerts.window(held, self.identified(side))
        side.failing = frozenset(failing)

    async def warm(self, side: Side) -> None:
        """Warm up as soon as Triton answers; again if it goes meanwhile."""
        while True:
            while not await self.serving.reachable(side.key):
                await self.clocks.sleep(_LOOK_EVERY_S)
            prompts = self.policy.readiness.warm_up
            done = await warm_up(prompts, lambda body: self.serving.chat(body, side.key), self.model, self.clocks.now)
            answered = not done.problem or await self.serving.reachable(side.key)
            if answered and prompts == self.policy.readiness.warm_up:  # else others count by now
                break
        side.warmed = done
        side.warm = WarmUpState.FAILED if done.problem else WarmUpState.DONE
        event = WARM_UP_FAILED if done.problem else WARMED_UP
        more = {"cause": done.problem} if done.problem else {}
        taken = {"prompts": len(prompts), "latency_ms": list(done.latency_ms), "tokens_out": done.tokens_out}
        self.alerts.record(event, **self.identified(side), **taken, **more)
        if side is self.side:
            await self.reasons()

    def spawn(self, work: Any) -> None:
        """Run a coroutine beside everything else until `stop`."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def identified(self, side: Side) -> dict[str, Any]:
        """What every event says of the engine."""
        identity = side.identity
        return {
            "model": self.model,
            "engine_hash": identity.engine_hash,
            "tokenizer_hash": identity.tokenizer_hash,
            "quantisation": identity.quantisation,
        }

    def _about(self, side: Side, facts: Facts, admitted: Admitted) -> dict[str, Any]:
        asked: dict[str, Any] = {"request": facts.id, "endpoint": facts.endpoint}
        asked |= {"operation": admitted.operation or None, "schema_id": admitted.schema_id or None}
        return {**self.identified(side), **asked}

    def _lost(self, side: Side) -> None:
        if side.warm is not WarmUpState.PENDING:
            side.lost()
            self.spawn(self.warm(side))
