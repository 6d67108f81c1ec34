"""Another engine for a deployment that runs: a Triton beside the old one, all requests, and the old one's end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from hermetic.cli import console
from hermetic.cli.placing import place_of, talk_of
from hermetic.cli.serve_proxy import engine_of, model_of
from hermetic.cli.serving import Prepared, Wish, engine_prepared
from hermetic.cli.serving_image import insist
from hermetic.cli.serving_policy import governed
from hermetic.errors import Domain, HermeticError
from hermetic.serve.launch import Served, serving
from hermetic.serve.launch_command import Settings
from hermetic.serve.launch_ports import free_ports
from hermetic.serve.openai.app import Proxy
from hermetic.serve.openai.engine import Engine
from hermetic.serve.triton_deployment import read_deployment

__all__ = ["Running", "Switch", "insist_on_room"]

#: What the proxy knows an engine as that is tried.
_TRIED = "tried"
_HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}


@dataclass
class Running:
    """A Triton that answers; `stack` ends it, and lets go of its engine."""

    found: Prepared
    server: Served
    stack: AsyncExitStack


class Switch:
    """`now` is what answers; `broken` is done when that has ended by itself."""

    def __init__(self, proxy: Proxy, wish: Wish, settings: Settings, given: dict[str, Any], now: Running) -> None:
        self.now = now
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proxy, self._wish, self._settings, self._given = proxy, wish, settings, given
        self._ending: set[asyncio.Task[None]] = set()
        self._number = 0
        self._follow(now)

    async def look(self) -> None:
        """Serve what the link shows, if that is something else by now. What stands in the way is said, and then
        everything is as before.
        """
        link, shown = self.now.found.link, self._shown()
        if not shown:
            self._proxy.switch_problem = ""
            return
        console.note(f"{link} shows {shown}: that is started beside what runs")
        try:
            await self._switch()
        except HermeticError as error:
            self._proxy.switch_problem = f"switch-failed: the old engine serves on: {error}"
            console.show_error(error)
            console.note("the old engine serves on")
        else:
            self._proxy.switch_problem = ""
            console.note(f"{link} is served, by the Triton at {self.now.server.grpc}")

    def _shown(self) -> str:
        """What the link shows instead of what is served; "" if nothing."""
        link, served = self.now.found.link, self.now.found.subject.engine
        shown = os.path.realpath(link) if link else ""
        return "" if shown == os.path.realpath(served) else shown

    async def leave(self, *error: Any) -> None:
        """End every Triton; gently, if this is not the way of an error."""
        if error[0] is not None:
            for task in self._ending:
                task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self.now.stack.__aexit__(*error)

    async def _switch(self) -> None:
        async with AsyncExitStack() as stack:
            found = await stack.enter_async_context(engine_prepared(self._wish))
            insist(found, place_of(self._given))
            insist_on_room(read_deployment(found.subject.repository).engine_files)
            ports = free_ports(self._settings.host)
            settings = replace(self._settings, ports=ports, may_wait=False)
            self._number += 1
            more = f"{self._settings.ports.http}-{self._number % 2}"  # of the last two
            log = self._given["triton_log"]
            told = self._given | {"triton_log": log and f"{log}-{self._number % 2}"}
            talk = talk_of(told, found.subject.name, more)
            server = await stack.enter_async_context(serving(found.subject, found.launcher, settings, talk))
            await self._take_over(Running(found, server, stack.pop_all()))

    async def _take_over(self, young: Running) -> None:
        try:
            model = model_of(young.found, self._given)
            engine = await asyncio.to_thread(engine_of, model, young.found, young.server.grpc)
            try:
                await self._try(young, engine)
            except BaseException:
                await engine.upstream.close()
                raise
        except BaseException:
            await young.stack.aclose()
            raise

    async def _try(self, young: Running, engine: Engine) -> None:
        """Until it has all requests, or does not live to see that."""
        self._proxy.engines[_TRIED] = engine
        tried = asyncio.ensure_future(self._tried(young))
        try:
            await asyncio.wait((tried, young.server.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            tried.cancel()
            await asyncio.wait((tried,))
            del self._proxy.engines[_TRIED]
        young.server.insist()
        tried.result()

    async def _tried(self, young: Running) -> None:
        """Asked once, warmed up as the policy says, and given all requests."""
        proxy, found = self._proxy, young.found

        def switch() -> None:
            old, former = self.now, proxy.exchange(proxy.engines[_TRIED])
            self.now = young
            self._follow(young)
            task = asyncio.ensure_future(self._end(old, former))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

        await proxy.chat(_HELLO, _TRIED)
        await proxy.hooks.exchange(governed(found, young.server.deployment), _TRIED, switch)

    async def _end(self, old: Running, former: Engine) -> None:
        """Once its last request has ended, or its time for that."""
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._proxy.done_with(former)
        except TimeoutError:
            console.warning("requests to the old engine did not end in time, and are ended with it")
        await former.upstream.close()
        await old.stack.aclose()
        console.note(f"the old engine has ended: {old.found.subject.engine}")

    def _follow(self, running: Running) -> None:
        def ended(_: object) -> None:
            if self.now is running and not self.broken.done():
                self.broken.set_result(None)

        running.server.ended.add_done_callback(ended)


def insist_on_room(files: Mapping[str, Mapping[str, Any]], meminfo: str = "/proc/meminfo") -> None:
    """Raises `HermeticError` (environment/no-room) if this machine's memory has no room for an engine of `files` beside
    what runs. GPUs are another matter: they are leased as a whole, so one that is in use has none.
    """
    with open(meminfo, encoding="ascii") as stream:
        free = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in stream)}
    needed = sum(int(of.get("size", 0)) for of in files.values())
    if needed > free.get("MemAvailable", needed):
        there = free["MemAvailable"] / 1e9
        message = f"the engine's {needed / 1e9:.1f} GB do not fit beside what runs: {there:.1f} GB are free"
        raise HermeticError(Domain.ENVIRONMENT, "no-room", message, hint="stop the server, and start it again")
