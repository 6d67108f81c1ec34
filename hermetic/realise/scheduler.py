"""Realise the derivations of a graph: find each, adopt it from an equal one, or build it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hermetic.derivation import Derivation, Graph, SourceInput, resolved_key
from hermetic.digest import Key, ResolvedKey, TreeDigest
from hermetic.errors import HermeticError, HermeticErrors
from hermetic.realise.builder import Builder, Built
from hermetic.realise.events import Event, Listener
from hermetic.realise.fetching import Fetcher
from hermetic.realise.forecast import least_disk
from hermetic.realise.hopeless import hopeless
from hermetic.realise.plan import Plan, make_plan
from hermetic.store import Realisation

__all__ = ["Scheduler"]

_POLL = 0.05  # seconds between two looks at a key that another process is building


@dataclass
class Scheduler:
    """Runs one plan. Nothing starts if a stage of it is known to fail; after an error nothing new starts, and what is
    running is stopped cleanly. With `keep_going` all that can be done is.
    """

    graph: Graph
    builder: Builder
    listener: Listener
    keep_going: bool = False
    _errors: list[HermeticError] = field(default_factory=list)
    _fetcher: Fetcher | None = None

    async def realise(self, wanted: Iterable[Key]) -> dict[Key, Realisation]:
        """Realise `wanted` and whatever they need. Raises the first error, or all of them with `keep_going`."""
        wanted = list(wanted)
        self.builder.run.lease(self.graph.derivations)  # before looking what is there, or the collector may take it
        plan = make_plan(self.graph, wanted, self.builder.store)
        self._announce(plan)
        if (space := least_disk(plan, self.builder.store)).short:
            self.listener(Event("warning", data={"message": space.warning(str(self.builder.store.root))}))
        if not self.keep_going and (errors := hopeless(plan, self.builder.store)):
            raise errors[0]
        tasks: dict[Key, asyncio.Task[Realisation | None]] = {}
        try:
            for step in plan.steps:
                work = self._realise(step.derivation, tasks)
                tasks[step.derivation.key] = asyncio.create_task(work, name=step.derivation.name)
            found = await self._gather(tasks)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        if self._errors:
            raise self._errors[0] if len(self._errors) == 1 else HermeticErrors(self._errors)
        return {key: found[key] for key in wanted}

    async def _gather(self, tasks: Mapping[Key, asyncio.Task[Realisation | None]]) -> dict[Key, Realisation]:
        found: dict[Key, Realisation] = {}
        for done in asyncio.as_completed(tasks.values()):
            try:
                realisation = await done
            except HermeticError as error:
                self._errors.append(error)
                if not self.keep_going:
                    break
            else:
                if realisation is not None:
                    found[realisation.key] = realisation
        return found

    def _announce(self, plan: Plan) -> None:
        steps = [
            {"stage": step.derivation.name, "key": step.derivation.key.hex, "action": step.action}
            for step in plan.steps
        ]
        self.listener(Event("plan", data={"steps": steps}))

    def _tell(self, derivation: Derivation, state: str, **data: object) -> None:
        self.listener(Event("state", derivation.name, derivation.key.hex, {"state": state, **data}))

    async def _realise(
        self, derivation: Derivation, tasks: Mapping[Key, asyncio.Task[Realisation | None]]
    ) -> Realisation | None:
        """The realisation of one derivation; None if an input failed."""
        found = self.builder.store.realisation(derivation.key)
        if found is not None:
            return self._in_place(derivation, found)
        inputs = {}
        for role, key in derivation.built_inputs():
            await asyncio.wait([tasks[key]])  # not gather: being stopped here must not stop the input as well
            done = None if tasks[key].cancelled() or tasks[key].exception() else tasks[key].result()
            if done is None:
                self._tell(derivation, "skipped", because=role)
                return None
            inputs[role] = done
        return await self._locked(derivation, inputs)

    async def _locked(self, derivation: Derivation, inputs: Mapping[str, Realisation]) -> Realisation:
        lock = self.builder.store.lock(derivation.key)
        told = False
        while not lock.try_acquire():
            if not told:
                self._tell(derivation, "waiting", because="another process builds it")
                told = True
            await asyncio.sleep(_POLL)
        try:
            found = self.builder.store.realisation(derivation.key)
            if found is not None:
                return self._in_place(derivation, found)
            return await self._make(derivation, inputs)
        finally:
            lock.release()

    async def _make(self, derivation: Derivation, inputs: Mapping[str, Realisation]) -> Realisation:
        resolved = resolved_key(derivation, _trees(derivation, inputs))
        equal = self._equal(resolved)
        if equal is not None:
            adopted = await self.builder.adopt(derivation, equal, resolved, inputs)
            self._tell(derivation, "adopted", size=adopted.size, path=str(self._path(adopted)), same_as=equal.key.hex)
            return adopted
        if derivation.fixed is not None:
            return await self._fetch(derivation, resolved)
        try:
            built = await self.builder.build(derivation, inputs, resolved)
        except HermeticError as error:
            why = {"domain": error.domain.value, "reason": error.reason, "message": error.message}
            used = {"used": error.data["used"]} if "used" in error.data else {}
            self._tell(derivation, "failed", **why, **used)
            raise
        made = built.realisation
        more = {"outcome": built.outcome, "used": dict(built.used), **_warning(built)}
        self._tell(derivation, "built", size=made.size, path=str(self._path(made)), **more)
        return made

    async def _fetch(self, derivation: Derivation, resolved: ResolvedKey) -> Realisation:
        if self._fetcher is None:
            self._fetcher = Fetcher(self.builder.store, self.builder.run, self.listener)
        try:
            made = await self._fetcher.fetch(derivation, resolved)
        except HermeticError as error:
            why = {"domain": error.domain.value, "reason": error.reason, "message": error.message}
            used = {"used": error.data["used"]} if "used" in error.data else {}
            self._tell(derivation, "failed", **why, **used)
            raise
        self._tell(derivation, "fetched", size=made.size, path=str(self._path(made)))
        return made

    def _equal(self, resolved: ResolvedKey) -> Realisation | None:
        """An output whose derivation had the very same inputs, though perhaps under other keys or another name."""
        for key in self.builder.store.resolved(resolved):
            self.builder.run.lease([key])
            found = self.builder.store.realisation(key)
            if found is not None and not found.impure:
                return found
        return None

    def _in_place(self, derivation: Derivation, found: Realisation) -> Realisation:
        self._tell(derivation, "in-place", size=found.size, path=str(self._path(found)))
        return found

    def _path(self, realisation: Realisation) -> object:
        return self.builder.store.path(realisation.key, realisation.name)


def _warning(built: Built) -> dict[str, str]:
    return {"warning": built.warning} if built.warning else {}


def _trees(derivation: Derivation, inputs: Mapping[str, Realisation]) -> dict[str, TreeDigest]:
    return {
        role: item.tree if isinstance(item, SourceInput) else inputs[role].tree
        for role, item in derivation.inputs.items()
    }
