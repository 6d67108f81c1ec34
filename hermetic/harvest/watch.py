"""When to look, when to judge, when to give up: the state of one watch, fed with glances and told no other way."""

from __future__ import annotations

from dataclasses import dataclass, field

from hermetic.harvest.evidence import File, Glance

__all__ = ["Limits", "Watch"]

_FINEST, _COARSEST = 0.02, 0.25  # seconds between looks


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds; `wall` and `silence` 0: none."""

    settle: float
    wall: float
    silence: float


@dataclass(slots=True)
class Watch:
    """`started` is when the stage was launched, in monotonic seconds.

    Files are looked at again and again whatever events say: events make a look come sooner, and never replace one.
    """

    limits: Limits
    started: float
    _signature: tuple[str, tuple[File, ...]] | None = field(default=None)
    _since: float = 0.0

    def see(self, glance: Glance) -> bool:
        """Take note of `glance`; whether everything is there and has been still for the settle time."""
        if glance.signature != self._signature:
            self._signature, self._since = glance.signature, glance.at
        return not glance.missing and bool(glance.files) and glance.at - self._since >= self.limits.settle

    def over(self, glance: Glance) -> str:
        """Which limit is reached, in words, or ""."""
        if self.limits.wall and glance.at - self.started >= self.limits.wall:
            return f"ran longer than {self.limits.wall:g} s"
        if self.limits.silence and glance.at - self._alive(glance) >= self.limits.silence:
            return f"printed nothing and wrote no artefact for {self.limits.silence:g} s"
        return ""

    def next_look(self, glance: Glance) -> float:
        """When to look again if nothing happens."""
        often = min(max(self.limits.settle / 8, _FINEST), _COARSEST)
        moments = [glance.at + often]
        still = self._since + self.limits.settle
        if still > glance.at:
            moments.append(still)
        if self.limits.wall:
            moments.append(self.started + self.limits.wall)
        if self.limits.silence:
            moments.append(self._alive(glance) + self.limits.silence)
        return min(moments)

    def _alive(self, glance: Glance) -> float:
        return max(self.started, glance.heard, self._since)
