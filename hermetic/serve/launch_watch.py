"""A Triton that starts: what it waits for, what it said last, whether it failed; and the file that keeps all it says.

The phrases are those of Triton 2.51's log, which its releases with TensorRT-LLM share (core, src/model_lifecycle.cc and
src/http_server.cc). One that said them otherwise would be told as not ready when its time is over, with its last lines.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.serve.launch_command import Settings
from hermetic.serve.rotated import Rotated

__all__ = ["Talk", "Watch", "limit_of", "log_path", "until_ready"]

#: The last thing that Triton says before it answers; the others are up by then, and all models loaded.
_READY: Final = "Started Metrics Service at"
#: What `triton_start.py` says when it has been told so, and looks after the models' processes.
_GUARDED: Final = "watched from here on:"
_LOADING: Final = re.compile(r"loading: ([^:\"]+):")
_LOADED: Final = re.compile(r"successfully loaded '([^']+)'")
_FAILED: Final = re.compile(r"failed to load '([^']+)' version \d+: (.*)")
#: Severity, date, time, thread, file and line before each message.
_PREFIX: Final = re.compile(r"^[IWEF]\d{4} [0-9:.]+ \d+ \S+\] +")
_ERROR: Final = re.compile(r"^[EF]\d{4} ")
_TAIL: Final = 40
_KEPT: Final = 1 << 16
_LOG_BYTES: Final = 16_000_000
_LOGS: Final = 4
_LEAST_S: Final = 600
_BYTES_A_SECOND: Final = 50_000_000  # a slow disk, or a file system of a network


@dataclass(frozen=True)
class Talk:
    """Who hears what. `tell` gets a line for each phase of the start and of what is wrong, `shown` all that Triton
    prints, as it comes, if anybody; `log` is the file that keeps that, "" for none.
    """

    tell: Callable[[str], None]
    shown: Callable[[bytes], None] | None = None
    log: str = ""

    @property
    def where(self) -> str:
        """For a hint."""
        return f"all it printed is in {self.log}" if self.log else "-v shows all it prints"


def limit_of(settings: Settings, files: Mapping[str, Mapping[str, Any]]) -> int:
    """Seconds that Triton may take for an engine of `files`, 0 for any time: what is set, else ten minutes and a second
    for each 50 MB. 70 GB may take 33 minutes.
    """
    if settings.start_s is not None:
        return settings.start_s
    return _LEAST_S + sum(int(of.get("size", 0)) for of in files.values()) // _BYTES_A_SECOND


class Watch:
    """Hears what Triton prints. `ready` is done when it answers, `failed` when a model could not be loaded, with it and
    why, and `guarded` when its models' processes are watched.
    """

    def __init__(self, talk: Talk) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.failed: asyncio.Future[tuple[str, str]] = loop.create_future()
        self.guarded: asyncio.Future[None] = loop.create_future()
        self.loading: dict[str, None] = {}
        self.last = ""
        self._talk = talk
        self._log = Rotated(talk.log, _LOG_BYTES, _LOGS) if talk.log else None
        self._text = b""
        self._line = b""
        self._keep(Rotated.put_aside)

    def heard(self, chunk: bytes) -> None:
        self._keep(lambda log: log.append(chunk))
        if self._talk.shown is not None:
            self._talk.shown(chunk)
        self._text = (self._text + chunk)[-_KEPT:]
        *lines, self._line = (self._line + chunk)[-_KEPT:].split(b"\n")
        for line in lines:
            self._read(line.decode("utf-8", "replace").rstrip())

    def close(self) -> None:
        """Nothing is waited for any more."""
        self.ready.cancel()
        self.failed.cancel()
        self.guarded.cancel()

    def tail(self) -> list[str]:
        """The end of it, without the tables that Triton prints whatever happens."""
        lines = self._text.decode("utf-8", "replace").splitlines()
        said = [line for line in lines if not line.startswith(("+-", "| ")) or "UNAVAILABLE" in line]
        return [" ".join(line.split()) for line in said if line.strip()][-_TAIL:]

    def waits_for(self) -> str:
        """In words."""
        names = ", ".join(self.loading)
        return f"{names} to be loaded" if names else "Triton to answer"

    def _read(self, line: str) -> None:
        if not line.strip() or line.startswith(("+-", "|")):
            return
        if _GUARDED in line:
            _done(self.guarded)
            return
        self.last = _PREFIX.sub("", line).strip('"')
        if _ERROR.match(line) and self.ready.done() and self._talk.shown is None:
            self._talk.tell(f"Triton: {self.last[:300]}")
        for name in _LOADING.findall(line):
            self.loading[name] = None
        for name in _LOADED.findall(line):
            self.loading.pop(name, None)
        if (failed := _FAILED.search(line)) and not self.failed.done():
            self.failed.set_result((failed[1], failed[2].strip('"')))
        if _READY in line:
            _done(self.ready)

    def _keep(self, what: Callable[[Rotated], None]) -> None:
        """A log that cannot be written is no reason to serve nobody."""
        if self._log is None:
            return
        try:
            what(self._log)
        except OSError as error:
            self._talk.tell(f"the log {self._log.path} is not written any more: {error.strerror or error}")
            self._log = None


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def until_ready(
    watch: Watch,
    ended: asyncio.Future[Any],
    limit_s: int,
    talk: Talk,
    *,
    clock: Callable[[], float] = time.monotonic,
    every_s: float = 10.0,
) -> None:
    """Wait, and tell of it every `every_s` seconds of `clock`.

    Raises `HermeticError` with Triton's last lines: environment/model-failed at once if a model cannot be loaded,
    environment/start-timeout after `limit_s` seconds. Returns too when `ended` is done.
    """
    began, taken = clock(), 0.0
    while True:
        pause = min(every_s, limit_s - taken) if limit_s else every_s
        ends: list[asyncio.Future[Any]] = [ended, watch.ready, watch.failed]
        done, _ = await asyncio.wait(ends, timeout=max(0.0, pause), return_when=asyncio.FIRST_COMPLETED)
        if watch.failed in done:
            raise _not_loaded(*watch.failed.result(), talk)
        if done:
            return
        taken = clock() - began
        if limit_s and taken >= limit_s:
            raise _too_late(watch, limit_s, talk)
        said = watch.last[:200] or "nothing"
        talk.tell(f"{taken:.0f} s: waiting for {watch.waits_for()}; Triton said last: {said}")


def _not_loaded(model: str, why: str, talk: Talk) -> HermeticError:
    """Triton writes the whole of it on one line."""
    lines = [line for line in why.replace("\\n", "\n").splitlines() if line.strip()] or ["it does not say why"]
    message = f"Triton cannot load the model {model!r}: {lines[0][:500]}"
    data = {"model": model, "log_tail": lines[1 : _TAIL + 1]}
    return HermeticError(Domain.ENVIRONMENT, "model-failed", message, hint=talk.where, data=data)


def _too_late(watch: Watch, limit_s: int, talk: Talk) -> HermeticError:
    message = f"Triton was not ready within {limit_s} s: it waited for {watch.waits_for()}"
    hint = f"--start-timeout SECONDS gives it longer, 0 any time; {talk.where}"
    return HermeticError(Domain.ENVIRONMENT, "start-timeout", message, hint=hint, data={"log_tail": watch.tail()})


def log_path(folder: str, name: str, more: str) -> str:
    """Of the server that is called `name`, whatever that is, in the folder of logs."""
    return os.path.join(folder, "serve", f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{more}.log")
