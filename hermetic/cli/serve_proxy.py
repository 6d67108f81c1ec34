"""What the ways of serving that speak OpenAI's API share: their options, and the proxy itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hermetic.cli import console
from hermetic.cli.serving import Prepared
from hermetic.cli.serving_policy import governed, hooks_of
from hermetic.errors import Domain, HermeticError
from hermetic.serve.canary import CANDIDATE
from hermetic.serve.notify import tell_ready, tell_reloading
from hermetic.serve.openai.app import Proxy
from hermetic.serve.openai.engine import Engine
from hermetic.serve.openai.hooks import NoHooks
from hermetic.serve.openai.server import listening
from hermetic.serve.openai.settings import ProxySettings
from hermetic.serve.triton_deployment import read_deployment, verify

__all__ = [
    "announce", "answering", "engine_of", "model_of", "proxy_of", "proxy_options", "proxy_settings", "rereading",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., object])
#: Keys for clients, separated by commas or white space.
KEYS = "HERMETIC_API_KEYS"
_MIB = 1 << 20


def proxy_options(function: F) -> F:
    """What the proxy can be told."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--listen", default="127.0.0.1", show_default=True, help="The address that the API listens on."),
    click.option("--port", type=click.IntRange(1, 65535), default=9000, show_default=True, help="And its port."),
    click.option("--model-id", help="What clients call the model [its name]."),
    click.option(
        "--api-keys",
        type=click.Path(path_type=Path),
        help=f"A file with a key on each line [{KEYS}].",
    ),
    click.option("--policy", type=click.Path(), help="The deployment's policy file."),
    click.option("--concurrent", type=click.IntRange(min=1), default=64, show_default=True, help="Answers at once."),
    click.option("--queue", type=click.IntRange(min=0), default=256, show_default=True, help="Requests that may wait."),
    click.option("--queue-seconds", type=click.FloatRange(min=0), default=30.0, show_default=True),
    click.option("--deadline", type=click.FloatRange(min=0.1), default=600.0, show_default=True, metavar="SECONDS"),
    click.option("--body-limit", type=click.IntRange(min=1), default=4, show_default=True, metavar="MIB"),
    click.option(
        "--thinking",
        type=click.Choice(["separate", "strip", "keep"]),
        default="separate",
        show_default=True,
        help="What becomes of <think>: reasoning_content, nothing, or text.",
    ),
)


def proxy_settings(given: dict[str, Any]) -> ProxySettings:
    """The values of `proxy_options`. Raises `HermeticError` (usage/bad-keys)."""
    return ProxySettings(
        host=given["listen"],
        port=given["port"],
        concurrent=given["concurrent"],
        waiting=given["queue"],
        wait_s=given["queue_seconds"],
        deadline_s=given["deadline"],
        body_bytes=given["body_limit"] * _MIB,
        thinking=given["thinking"],
        keys=_keys(given["api_keys"]),
        drain_s=given["drain"],
    )


def _keys(file: Path | None) -> tuple[str, ...]:
    """A file without keys would let everybody in, so it is refused."""
    if file is None:
        return tuple(os.environ.get(KEYS, "").replace(",", " ").split())
    try:
        keys = tuple(file.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise HermeticError(Domain.USAGE, "bad-keys", f"{file} cannot be read: {error}") from error
    if not keys:
        raise HermeticError(Domain.USAGE, "bad-keys", f"{file} has no key")
    return keys


def model_of(found: Prepared, given: dict[str, Any]) -> str:
    """A profile's name, or what is left of a recipe's."""
    name = found.subject.name.partition("#")[0]
    return given["model_id"] or (name.removesuffix(".py") or name)


def proxy_of(
    found: Prepared, address: str, given: dict[str, Any], candidate: tuple[Prepared, str] | None = None
) -> Proxy:
    """The proxy for the Triton at `address`, and for a candidate behind another one. The tokenizers are the
    deployments', or they are refused.
    """
    model = model_of(found, given)
    engine = engine_of(model, found, address)
    if candidate is None:
        hooks = hooks_of(found, model, engine.deployment, given["policy"])
        return Proxy({"": engine}, proxy_settings(given), hooks)
    rival = engine_of(model, *candidate)
    tried = governed(candidate[0], rival.deployment)
    hooks = hooks_of(found, model, engine.deployment, given["policy"], tried)
    return Proxy({"": engine, CANDIDATE: rival}, proxy_settings(given), hooks)


def engine_of(model: str, found: Prepared, address: str) -> Engine:
    """What the proxy asks. Raises `HermeticError` (trust/tokenizer-changed)."""
    deployment = read_deployment(found.subject.repository)
    if "whisper_bls" in deployment.models:
        message = f"the engine {model!r} takes speech, and OpenAI's API is served for text alone"
        raise HermeticError(Domain.USAGE, "speech-not-here", message, hint="hermetic serve triton serves it")
    tokenizer = os.path.join(found.subject.tokenizer, deployment.tokenizer_folder).rstrip("/")
    verify("tokenizer", tokenizer, deployment.tokenizer_files, whole=False)
    return Engine.at(model, tokenizer, address, deployment)


async def answering(
    proxy: Proxy, ends: list[asyncio.Future[Any]], ready: Callable[[], None], beside: Callable[[], Awaitable[None]]
) -> None:
    """Serve until one of `ends`; `ready` is called when the API listens, and `beside` runs from then on. Drains on the
    way out.
    """
    async with listening(proxy) as server:
        ready()
        again = asyncio.ensure_future(beside())
        try:
            await asyncio.wait([*ends, server, again], return_when=asyncio.FIRST_COMPLETED)
            if again.done():
                again.result()
        finally:
            again.cancel()
            await asyncio.wait([again])
        if server.done():
            raise HermeticError(Domain.ENVIRONMENT, "proxy-ended", "the API ended by itself")
        console.note("draining; once more to stop at once")


async def rereading(
    proxy: Proxy, keys: Path | None, told: asyncio.Event, more: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Read the policy and the file of keys again, each time that it is told to; what is wrong with one stays as it was
    and is said. `more` comes after that.
    """
    while True:
        await told.wait()
        told.clear()
        _notify(tell_reloading)
        if not isinstance(proxy.hooks, NoHooks):
            problem = await proxy.hooks.reload()
            console.note(f"the policy stays as it was: {problem}" if problem else "the policy is read again")
        if keys is not None:
            proxy.keys_problem = await asyncio.to_thread(_replace_keys, proxy, keys)
            console.note(proxy.keys_problem or "the keys are read again")
        if more is not None:
            await more()
        _notify(tell_ready)


def _replace_keys(proxy: Proxy, file: Path) -> str:
    """What is wrong, "" if nothing."""
    try:
        proxy.keys.replace(_keys(file))
    except HermeticError as error:
        return f"keys-rejected: the keys stay as they were: {error.message}"
    return ""


def _notify(tell: Callable[[], None]) -> None:
    """A server that runs does not end because nobody hears of it."""
    try:
        tell()
    except HermeticError as error:
        console.warning(error.message)


def announce(proxy: Proxy, *, as_json: bool, **more: Any) -> None:
    """Say where it listens, to systemd too."""
    engine, settings = proxy.engines[""], proxy.settings
    if as_json:
        said = {"event": "ready", "model": engine.model, "host": settings.host, "port": settings.port, **more}
        console.json_line({**said, "engine": engine.deployment.engine_hash})
    else:
        console.data(f"http://{settings.host}:{settings.port}/v1")
        console.note(f"{engine.model} is answered at http://{settings.host}:{settings.port}/v1")
    tell_ready()
