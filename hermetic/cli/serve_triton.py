"""``hermetic serve triton``: Triton with an engine, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from hermetic.cli import console, options
from hermetic.cli.link import default_folder
from hermetic.cli.placing import place_of, place_options, talk_of
from hermetic.cli.serving import Prepared, Wish, prepared
from hermetic.cli.serving_image import insist
from hermetic.serve.launch import Served, serving
from hermetic.serve.launch_command import Settings
from hermetic.serve.launch_ports import Ports, insist_on_free
from hermetic.serve.launch_signals import stopping
from hermetic.serve.launch_watch import Talk
from hermetic.serve.notify import tell_ready

_PORT = click.IntRange(1, 65535)
F = TypeVar("F", bound=Callable[..., object])


def server_options(function: F) -> F:
    """What every way of starting Triton can be told."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
    click.option("--http-port", type=_PORT, envvar="TRITON_HTTP_PORT", default=8000, show_default=True),
    click.option("--grpc-port", type=_PORT, envvar="TRITON_GRPC_PORT", default=8001, show_default=True),
    click.option("--metrics-port", type=_PORT, envvar="TRITON_METRICS_PORT", default=8002, show_default=True),
    click.option(
        "--to", type=click.Path(path_type=Path), help="The folder of links to engines [~/.cache/trtllm-engines]."
    ),
    click.option(
        "--manifest", type=click.Path(exists=True), help="What vouches for the engine [its own manifest.json]."
    ),
    click.option("--tokenizer", type=click.Path(exists=True, file_okay=False), envvar="TOKENIZER_DIR"),
    click.option("--repository", type=click.Path(exists=True, file_okay=False), envvar="MODEL_REPO"),
    click.option("--max-batch-size", type=click.IntRange(min=1), help="Requests computed at once."),
    click.option("--max-seq-len", type=click.IntRange(min=1), help="Tokens of a prompt and its answer together."),
    click.option("--drain", type=click.IntRange(min=0), default=30, show_default=True, metavar="SECONDS"),
)


#: What scripts around Triton are told with, and is decided elsewhere here.
_UNREAD = {"TOKENIZER_INFO": "the repository has it, made from the tokenizer"}


def settings_of(given: dict[str, Any]) -> Settings:
    """The values of `server_options` that are about the server."""
    ports = Ports(given["http_port"], given["grpc_port"], given["metrics_port"])
    return Settings(given["host"], ports, given["drain"])


def placed_settings_of(given: dict[str, Any]) -> Settings:
    """With those of `place_options`. Raises `HermeticError` (usage/two-tritons)."""
    return replace(settings_of(given), place=place_of(given), start_s=given["start_timeout"])


def wish_of(target: str, sets: tuple[str, ...], store: str | None, given: dict[str, Any]) -> Wish:
    """The values of `server_options` that are about what is served."""
    chosen = {name: given[name] for name in ("max_batch_size", "max_seq_len") if given[name] is not None}
    paths = {name: given[name] for name in ("manifest", "tokenizer", "repository")}
    runtime = given.get("runtime", "auto")  # compose starts nothing
    return Wish(target, str(given["to"] or default_folder()), sets, store, options=chosen, runtime=runtime, **paths)


@click.command("triton")
@click.argument("target", metavar="NAME|PATH|RECIPE[#STAGE]")
@options.setting
@options.store
@options.as_json
@server_options
@place_options
def command(target: str, sets: tuple[str, ...], store: str | None, as_json: bool, **given: Any) -> None:
    """Start Triton with an engine, and say when it is ready.

    A RECIPE's stage is a triton_repository, which is realised first. A NAME is the engine of TRTLLM_ENGINE_PATH if that
    is set, else of the profile, else ~/.cache/trtllm-engines/NAME. Every file of the engine is compared with its
    manifest before anything is started. SIGTERM and Ctrl-C let running requests end; a second one does not.
    """
    for variable, instead in _UNREAD.items():
        if os.environ.get(variable):
            console.warning(f"{variable} is not read here: {instead}")
    settings = placed_settings_of(given)
    insist_on_free(settings.host, vars(settings.ports))  # before an engine is read
    with prepared(wish_of(target, sets, store, given)) as found:
        insist(found, settings.place)
        talk = talk_of(given, found.subject.name, settings.ports.http)
        asyncio.run(_serve(found, settings, talk, as_json=as_json))


async def _serve(found: Prepared, settings: Settings, talk: Talk, *, as_json: bool) -> None:
    with stopping() as stop:
        async with serving(found.subject, found.launcher, settings, talk) as server:
            _announce(server, as_json=as_json)
            stop.gentle = True
            told = asyncio.ensure_future(stop.told.wait())
            again = asyncio.ensure_future(_nothing_is_read(stop.again))
            ends: list[asyncio.Future[Any]] = [server.ended, told]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                told.cancel()
                again.cancel()
            server.insist()
            console.note("draining; once more to stop at once")


async def _nothing_is_read(told: asyncio.Event) -> None:
    """Whoever tells us to read something again must not end the server with it."""
    while True:
        await told.wait()
        told.clear()
        console.note("Triton alone has no policy and no keys: nothing is read again")


def _announce(server: Served, *, as_json: bool) -> None:
    host, ports, deployment = server.settings.host, server.settings.ports, server.deployment
    if as_json:
        console.json_line(
            {
                "event": "ready",
                "name": server.subject.name,
                "kind": deployment.kind,
                "engine": deployment.engine_hash,
                "tokenizer": deployment.tokenizer_hash,
                "host": host,
                "log": server.talk.log,
                **vars(ports),
            }
        )
    else:
        console.data(f"http://{host}:{ports.http}")
        console.note(f"{server.subject.name} is ready: HTTP {ports.http}, gRPC {ports.grpc}, metrics {ports.metrics}")
    tell_ready()
