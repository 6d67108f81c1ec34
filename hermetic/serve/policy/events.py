"""The log of what a deployment went through: one JSON line each, in a file that only grows, and on stderr.

The five governance events have the names of the serving guide's repository (governance/event_log.py).
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import PolicyFile
from hermetic.serve.policy.redaction import Redactor

__all__ = ["EVENTS", "EventLog", "log_of", "say"]

PUBLISHED: Final = "llm_engine_published"
WARMED_UP: Final = "llm_warmup_completed"
WARM_UP_FAILED: Final = "llm_warmup_failed"
ROLLED_BACK: Final = "llm_rollback_completed"
ALERT: Final = "llm_observability_alert"
EVENTS: Final = (PUBLISHED, WARMED_UP, WARM_UP_FAILED, ROLLED_BACK, ALERT)
#: The end of the log that is read for people.
_SHOWN: Final = 1 << 18


def say(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class EventLog:
    """The file `path`, made with its folder when the first event comes. Any number of processes may write to it.

    `clock` gives Unix seconds, `tell` has each line too.
    """

    def __init__(
        self,
        path: str,
        redactor: Redactor,
        *,
        clock: Callable[[], float] = time.time,
        tell: Callable[[str], None] = say,
    ) -> None:
        self.path = path
        self._redactor = redactor
        self._clock = clock
        self._tell = tell

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Log one of `EVENTS`, redacted; gives what was logged, with its ``id`` and ``at`` (UTC).

        Raises `HermeticError` (environment/events-not-written): an event that is not recorded did not happen.
        """
        document = self._document(event, fields)
        line = json.dumps(document, ensure_ascii=False)
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, f"{line}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            message = f"the event {event} cannot be written to {self.path}: {error.strerror}"
            raise HermeticError(Domain.ENVIRONMENT, "events-not-written", message) from error
        self._tell(line)
        return document

    def tell(self, event: str, **fields: Any) -> None:
        """Say something, redacted, that is no governance event: on stderr only."""
        self._tell(json.dumps(self._document(event, fields), ensure_ascii=False))

    def _document(self, event: str, fields: dict[str, Any]) -> dict[str, Any]:
        at = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC).isoformat(timespec="milliseconds")
        redacted: dict[str, Any] = self._redactor.value(fields)
        return {"event": event, "at": at, "id": secrets.token_hex(8), **redacted}

    def recent(self, kinds: Iterable[str] = EVENTS, most: int = 20) -> list[dict[str, Any]]:
        """The newest of these `kinds`, the newest first, from the end of the file."""
        wanted = set(kinds)
        found = [one for one in _documents(self.path) if one.get("event") in wanted]
        return found[-most:][::-1]


def log_of(file: PolicyFile) -> EventLog:
    """Where the deployment of `file` logs its events."""
    return EventLog(file.path(f"{file.policy.state}/events.jsonl"), Redactor(file.policy.redaction))


def _documents(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(path) - _SHOWN))
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            document = json.loads(line)
        except ValueError:  # the first may be cut by where reading began, the last by a power loss
            continue
        if isinstance(document, dict):
            found.append(document)
    return found
