"""``hermetic serve NAME``: Triton, OpenAI's API before it, and readiness, in one command."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import click
import uvloop

from hermetic.cli import options
from hermetic.cli.placing import place_of, place_options, talk_of
from hermetic.cli.serve_proxy import announce, answering, proxy_of, proxy_options, proxy_settings, rereading
from hermetic.cli.serve_switch import Running, Switch
from hermetic.cli.serve_triton import placed_settings_of, server_options, settings_of, wish_of
from hermetic.cli.serving import Prepared, Wish, prepared
from hermetic.cli.serving_image import insist
from hermetic.serve.launch import serving
from hermetic.serve.launch_ports import insist_on_apart
from hermetic.serve.launch_signals import stopping


@click.command("serve")
@click.argument("target", metavar="NAME|PATH|RECIPE[#STAGE]")
@options.setting
@options.store
@options.as_json
@server_options
@place_options
@proxy_options
def command(target: str, sets: tuple[str, ...], store: str | None, as_json: bool, **given: Any) -> None:
    """Start Triton with an engine and OpenAI's API before it, on port 9000.

    --host and the ports with a name are Triton's, --listen and --port the API's. Everything ends with this command.
    SIGTERM and Ctrl-C let running answers end; a second one does not. SIGHUP has policy, keys and the engine that NAME
    shows looked at again.
    """
    settings, triton = proxy_settings(given), settings_of(given)
    insist_on_apart((settings.host, {"API": settings.port}), (triton.host, vars(triton.ports)))
    wish = wish_of(target, sets, store, given)
    with prepared(wish) as found:
        insist(found, place_of(given))
        uvloop.run(_serve(found, wish, given, as_json=as_json))


async def _serve(found: Prepared, wish: Wish, given: dict[str, Any], *, as_json: bool) -> None:
    with stopping() as stop:
        settings = placed_settings_of(given)
        talk = talk_of(given, found.subject.name, settings.ports.http)
        # Before Triton is started: a policy with a mistake is told at once.
        proxy = await asyncio.to_thread(proxy_of, found, settings.grpc, given)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(serving(found.subject, found.launcher, settings, talk))
            switch = Switch(proxy, wish, settings, given, Running(found, server, stack.pop_all()))
            stack.push_async_exit(switch.leave)
            told = asyncio.ensure_future(stop.told.wait())

            def ready() -> None:
                stop.gentle = True
                announce(proxy, as_json=as_json, **vars(settings.ports))

            again = partial(rereading, proxy, given["api_keys"], stop.again, switch.look)
            try:
                await answering(proxy, [switch.broken, told], ready, again)
            finally:
                told.cancel()
            switch.now.server.insist()
