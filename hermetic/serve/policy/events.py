"""The log of what a deployment went through: one JSON line each, in files that are put aside by size, and on stderr.

The five governance events have the names of the serving guide's repository (governance/event_log.py).
"""

from __future__ import annotations

import datetime
import itertools
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from hermetic.errors import Domain, HermeticError
from hermetic.llm.policy import Events, PolicyFile
from hermetic.serve.policy.redaction import Redactor
from hermetic.serve.rotated import Rotated

__all__ = ["EVENTS", "LOGGED", "EventLog", "log_of", "say"]

PUBLISHED: Final = "llm_engine_published"
WARMED_UP: Final = "llm_warmup_completed"
WARM_UP_FAILED: Final = "llm_warmup_failed"
ROLLED_BACK: Final = "llm_rollback_completed"
ALERT: Final = "llm_observability_alert"
EVENTS: Final = (PUBLISHED, WARMED_UP, WARM_UP_FAILED, ROLLED_BACK, ALERT)
#: A policy file that was read again, and one that could not be.
POLICY_RELOADED: Final = "llm_policy_reloaded"
POLICY_REJECTED: Final = "llm_policy_rejected"
#: The end of the log that is read for people, in bytes.
_SHOWN: Final = 1 << 20
LOGGED: Final = (*EVENTS, POLICY_RELOADED, POLICY_REJECTED)


def say(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class EventLog:
    """The file `path`, made with its folder when the first event comes. Any number of processes may write to it.

    `clock` gives Unix seconds, `tell` has each line too. `kept` is how much of it is.
    """

    def __init__(
        self,
        path: str,
        redactor: Redactor,
        *,
        clock: Callable[[], float] = time.time,
        tell: Callable[[str], None] = say,
        kept: Events | None = None,
    ) -> None:
        kept = kept or Events()
        self.path = path
        self._files = Rotated(path, kept.file_bytes, kept.files)
        self._redactor = redactor
        self._clock = clock
        self._tell = tell

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Log one of `LOGGED`, redacted; gives what was logged, with its ``id`` and ``at`` (UTC).

        Raises `HermeticError` (environment/events-not-written): an event that is not recorded did not happen.
        """
        document = self._document(event, fields)
        line = json.dumps(document, ensure_ascii=False)
        try:
            self._files.append_line(line)
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

    def recent(self, kinds: Iterable[str] = LOGGED, most: int = 20) -> list[dict[str, Any]]:
        """The newest of these `kinds`, the newest first, from the end of the log."""
        return list(itertools.islice(self._of(kinds, _SHOWN), most))

    def all(self, kinds: Iterable[str] = LOGGED) -> Iterator[dict[str, Any]]:
        """All of these `kinds` that are kept, the newest first."""
        return self._of(kinds, None)

    def _of(self, kinds: Iterable[str], most: int | None) -> Iterator[dict[str, Any]]:
        wanted = set(kinds)
        names = [name.encode() for name in wanted]
        for text in self._files.newest_first(most):
            for line in reversed(text.split(b"\n")):
                if any(name in line for name in names) and (document := _document(line)).get("event") in wanted:
                    yield document


def log_of(file: PolicyFile) -> EventLog:
    """Where the deployment of `file` logs its events."""
    path, policy = file.path(f"{file.policy.state}/events.jsonl"), file.policy
    return EventLog(path, Redactor(policy.redaction), kept=policy.events)


def _document(line: bytes) -> dict[str, Any]:
    """Empty for a line that is none: the first may be cut by where reading began, the last by a power loss."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
