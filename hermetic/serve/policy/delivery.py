"""Telling recipients: webhooks, tried again until they take it or their attempts are used up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx2 as httpx

from hermetic.llm.policy import Recipient

__all__ = ["Deliveries"]

#: Alerts that wait for one recipient; the oldest give way, and all are in the log of events anyway.
_WAITING: Final = 256

Post = Callable[[str, Mapping[str, Any], float], Awaitable[int]]
Sleep = Callable[[float], Awaitable[object]]


async def post(url: str, document: Mapping[str, Any], timeout_s: float) -> int:
    """POST `document` as JSON; the status of the answer. Redirects are not followed. Raises `httpx.HTTPError`."""
    headers = {"Idempotency-Key": str(document.get("id", ""))}
    async with httpx.AsyncClient(timeout=timeout_s) as client:
        answer = await client.post(url, json=dict(document), headers=headers)
    return answer.status_code


class Deliveries:
    """To each recipient one by one, in order, and to none later because of another.

    `told` hears how each delivery ended: recipient, document, and what went wrong, "" if nothing.
    """

    def __init__(
        self,
        recipients: Mapping[str, Recipient],
        told: Callable[[str, Mapping[str, Any], str], None],
        *,
        send: Post = post,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._recipients = {name: one for name, one in recipients.items() if one.webhook is not None}
        self._told = told
        self._send = send
        self._sleep = sleep
        self._waiting: dict[str, deque[Mapping[str, Any]]] = {name: deque(maxlen=_WAITING) for name in recipients}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def hand_over(self, recipient: str | None, document: Mapping[str, Any]) -> None:
        """Begin to deliver; never waits. Nothing happens for who has no webhook. For use inside an event loop."""
        if recipient is None or recipient not in self._recipients:
            return
        self._waiting[recipient].append(document)
        task = self._tasks.get(recipient)
        if task is None or task.done():
            self._tasks[recipient] = asyncio.ensure_future(self._work(recipient))

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        return any(not task.done() for task in self._tasks.values())

    async def finish(self, within_s: float) -> None:
        """Wait for what is on its way, then give up."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, recipient: str) -> None:
        waiting = self._waiting[recipient]
        while waiting:
            document = waiting.popleft()
            self._told(recipient, document, await self._deliver(self._recipients[recipient], document))

    async def _deliver(self, to: Recipient, document: Mapping[str, Any]) -> str:
        """What was wrong the last time; what no other attempt would change is not tried again."""
        pause, problem = float(to.backoff_s), ""
        for attempt in range(to.attempts):
            if attempt:
                await self._sleep(pause)
                pause *= 2
            try:
                status = await self._send(str(to.webhook), document, float(to.timeout_s))
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status < 300:
                return ""
            problem = f"HTTP status {status}"
            if status < 500 and status not in {408, 425, 429}:
                break
        return problem
