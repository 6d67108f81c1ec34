"""``hermetic serve openai``: OpenAI's API before a Triton that runs already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import uvloop

from hermetic.cli import options
from hermetic.cli.link import default_folder
from hermetic.cli.serve_proxy import announce, answering, proxy_of, proxy_options, rereading
from hermetic.cli.serving import Prepared, Wish, prepared
from hermetic.serve.launch_signals import stopping
from hermetic.serve.openai.app import Proxy


@click.command("openai")
@click.argument("target", metavar="NAME|PATH|RECIPE[#STAGE]")
@options.setting
@options.store
@options.as_json
@click.option("--triton", "address", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT", help="Its gRPC.")
@click.option("--candidate", metavar="NAME|PATH", help="An engine that the policy's canary tries.")
@click.option("--candidate-triton", default="127.0.0.1:8101", show_default=True, metavar="HOST:PORT", help="Its gRPC.")
@click.option("--to", type=click.Path(path_type=Path), help="The folder of links to engines [~/.cache/trtllm-engines].")
@click.option("--manifest", type=click.Path(exists=True), help="What vouches for the engine [its own manifest.json].")
@click.option("--tokenizer", type=click.Path(exists=True, file_okay=False), envvar="TOKENIZER_DIR")
@click.option("--repository", type=click.Path(exists=True, file_okay=False), envvar="MODEL_REPO")
@click.option("--drain", type=click.IntRange(min=0), default=30, show_default=True, metavar="SECONDS")
@proxy_options
def command(
    target: str, sets: tuple[str, ...], store: str | None, as_json: bool, address: str, to: Path | None, **given: Any
) -> None:
    """Answer OpenAI's API with the Triton at --triton, which serves the same engine.

    The model is called what the TARGET is called. SIGTERM and Ctrl-C let running answers end; a second one does not.
    """
    paths = {name: given[name] for name in ("manifest", "tokenizer", "repository")}
    wish = Wish(target, str(to or default_folder()), sets, store, **paths)
    with prepared(wish) as found, _tried(given["candidate"], store, wish.links) as rival:
        proxy = proxy_of(found, address, given, (rival, given["candidate_triton"]) if rival is not None else None)
        uvloop.run(_serve(proxy, given["api_keys"], as_json=as_json))


@contextmanager
def _tried(candidate: str | None, store: str | None, links: str) -> Iterator[Prepared | None]:
    if candidate is None:
        yield None
        return
    with prepared(Wish(candidate, links, store=store)) as found:
        yield found


async def _serve(proxy: Proxy, keys: Path | None, *, as_json: bool) -> None:
    with stopping() as stop:
        told = asyncio.ensure_future(stop.told.wait())

        def ready() -> None:
            stop.gentle = True
            announce(proxy, as_json=as_json)

        again = partial(rereading, proxy, keys, stop.again)
        try:
            await answering(proxy, [told], ready, again)
        finally:
            told.cancel()
