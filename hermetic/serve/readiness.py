"""Whether a deployment may be sent requests, and if not, every reason by name."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from hermetic.digest import hash_bytes
from hermetic.errors import Domain, HermeticError
from hermetic.serve.policy.windows import Held

__all__ = ["ReadinessFacts", "Reason", "SignOffs", "WarmUpState", "reasons"]


class WarmUpState(str, Enum):
    """Of the engine that is served now."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Reason:
    """Why not. `code` is stable: `triton-not-ready`, `warm-up-pending`, `warm-up-failed`, `engine-mismatch`,
    `engine-switched`, `manifest-missing`, `manifest-mismatch`, `window-exceeded`, `sign-off-missing`,
    `events-not-written`.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True)
class ReadinessFacts:
    """All that readiness follows from.

    `mismatches` are where Triton says that it serves something else, `switched` is what the engine's link shows instead
    of what is served, "" if nothing. `manifest` are the differences to the runtime manifest, None where the policy asks
    for one and there is none for this engine; `unsigned` are those who have not signed off; `unwritten` is why the log
    of events has gaps.
    """

    reachable: bool
    warm_up: WarmUpState
    warm_up_problem: str = ""
    mismatches: Sequence[str] = ()
    switched: str = ""
    manifest: Sequence[str] | None = ()
    failing: Sequence[Held] = ()
    unsigned: Sequence[str] = ()
    unwritten: str = ""


def reasons(facts: ReadinessFacts) -> tuple[Reason, ...]:
    """Every reason, what must be mended first in front; none for a deployment that is ready."""
    found = []
    if not facts.reachable:
        found.append(Reason("triton-not-ready", "Triton does not say that it is ready"))
    if facts.warm_up is WarmUpState.PENDING:
        found.append(Reason("warm-up-pending", "the warm-up has not ended yet"))
    if facts.warm_up is WarmUpState.FAILED:
        found.append(Reason("warm-up-failed", facts.warm_up_problem))
    found += [Reason("engine-mismatch", one) for one in facts.mismatches]
    if facts.switched:
        found.append(Reason("engine-switched", f"the link shows {facts.switched} now: start again to serve that"))
    if facts.manifest is None:
        found.append(Reason("manifest-missing", "there is no runtime manifest"))
    found += [Reason("manifest-mismatch", one) for one in facts.manifest or ()]
    found += [Reason("window-exceeded", str(one)) for one in facts.failing]
    found += [Reason("sign-off-missing", f"{one} has not signed this engine off") for one in facts.unsigned]
    if facts.unwritten:
        found.append(Reason("events-not-written", facts.unwritten))
    return tuple(found)


_ROLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")


class SignOffs:
    """Who has agreed to an engine: a file each in `folder`, for one role, one engine and one policy.

    Another engine, another tokenizer or another policy has to be signed off anew.
    """

    def __init__(self, folder: str, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock

    def sign(self, role: str, by: str, seal: str, note: str = "") -> dict[str, Any]:
        """Record that `by` agrees for `role`. Raises `HermeticError` (usage/bad-role)."""
        if _ROLE.fullmatch(role) is None:
            message = f"{role!r} cannot be a role"
            raise HermeticError(Domain.USAGE, "bad-role", message, hint="letters, digits, dots, dashes and spaces")
        document = {"role": role, "by": by, "seal": seal, "note": note, "at": int(self._clock())}
        os.makedirs(self.folder, exist_ok=True)
        path = self._file(role, seal)
        with open(f"{path}.new", "w", encoding="utf-8") as stream:
            json.dump(document, stream)
        os.replace(f"{path}.new", path)
        return document

    def missing(self, roles: Iterable[str], seal: str) -> tuple[str, ...]:
        """Those of `roles` that have not agreed to what `seal` stands for."""
        return tuple(role for role in roles if self.of(role, seal) is None)

    def of(self, role: str, seal: str) -> Mapping[str, Any] | None:
        """What was signed; None if nothing readable was."""
        try:
            with open(self._file(role, seal), "rb") as stream:
                document = json.load(stream)
        except (OSError, ValueError):
            return None
        whole = isinstance(document, dict) and (document.get("role"), document.get("seal")) == (role, seal)
        return document if whole else None

    def _file(self, role: str, seal: str) -> str:
        return os.path.join(self.folder, f"{hash_bytes(f'{role} {seal}'.encode()).hex[:32]}.json")


def seal_of(engine_hash: str, tokenizer_hash: str, policy_digest: str) -> str:
    """What somebody signs: ``blake3:…`` of engine, tokenizer and the policy file's bytes."""
    return f"blake3:{hash_bytes(f'{engine_hash} {tokenizer_hash} {policy_digest}'.encode()).hex}"
