"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings", "held_back"]


def held_back(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `marks`."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    for size in range(longest, 0, -1):
        if any(mark.startswith(text[-size:]) for mark in marks):
            return size
    return 0


class StopStrings:
    """Passes text on up to whichever of `stops` is whole first, wherever the text is cut; then `stopped` is true."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What may be shown now."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        kept = len(text) - held_back(text, self._stops)
        self._held = text[kept:]
        return text[:kept]

    def end(self) -> str:
        """What was held back and was no stop string after all."""
        held, self._held = self._held, ""
        return held
