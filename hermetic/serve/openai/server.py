"""The proxy as a server: uvicorn, whose signals are ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import uvicorn

from hermetic.serve.launch_ports import insist_on_free
from hermetic.serve.openai.app import Proxy

__all__ = ["listening"]


#: Longer than clients keep a connection that they do not use, so that none asks one that is about to be closed.
_KEEP_ALIVE_S: Final = 75


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are heard by whoever runs this."""
        yield


@contextlib.asynccontextmanager
async def listening(proxy: Proxy) -> AsyncIterator[asyncio.Task[None]]:
    """The proxy, which answers from here on. Leaving drains it: no new connections, running answers come to their end
    for `drain_s` seconds; leaving by an error or being cancelled does not wait. The task is done if it ended by itself.

    Raises `HermeticError` (busy/port-in-use, environment/bad-address).
    """
    settings = proxy.settings
    insist_on_free(settings.host, {"API": settings.port})
    config = uvicorn.Config(
        proxy.app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_keep_alive=_KEEP_ALIVE_S,
        http="httptools",
        lifespan="on",
        ws="none",
    )
    server = _Server(config)
    with _bound(settings.host, settings.port) as sock:
        task = asyncio.ensure_future(server.serve(sockets=[sock]))
        try:
            await _started(server, task)
            yield task
            proxy.draining = True
            server.should_exit = True
            await asyncio.wait([task])
        finally:
            if not task.done():
                server.force_exit = True
                server.should_exit = True
                await asyncio.wait([task])
    task.result()


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
        yield sock


async def _started(server: _Server, task: asyncio.Task[None]) -> None:
    listens = asyncio.ensure_future(server.listens.wait())
    try:
        await asyncio.wait((listens, task), return_when=asyncio.FIRST_COMPLETED)
    finally:
        listens.cancel()
    if task.done():
        task.result()
