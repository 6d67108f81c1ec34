"""A plan in words, for the ordinary path and for the one that answers from the evaluation cache."""

from __future__ import annotations

__all__ = ["NEW", "amount", "disk", "line", "summary"]

NEW = "new"  # as hermetic.realise.forecast says it, which imports more


def line(action: str, name: str, path: str, reason: str = "", seconds: float | None = None) -> str:
    """One step; `reason` only for what is to be built, `seconds` what its last build took."""
    first = f"{action:9} {name:16} {path}"
    if not reason:
        return first
    last = "" if seconds is None else f"  (last time {_time(seconds)})"
    return f"{first}\n{'':26} {reason}{last}"


def amount(size: float) -> str:
    """What a fetch brings."""
    from hermetic.realise.display import human_bytes

    return f"{human_bytes(size)} to fetch"


def summary(
    building: int, steps: int, seconds: float = 0, size: float = 0, unknown: int = 0, fetching: float = 0
) -> str:
    """All of it: seconds and bytes judging by the last builds, `unknown` of which there were none; bytes to fetch."""
    text = f"{building} of {steps} stages to build"
    text += f", {amount(fetching)}" if fetching else ""
    if seconds or size:
        from hermetic.realise.display import human_bytes

        text += f"; about {_time(seconds)} and {human_bytes(size)} of results, judging by the last builds"
    return text + (f"; {unknown} never built here" if unknown and seconds else "")


def disk(needed: float, unknown: int) -> str:
    """What the disk must hold at the end, which is the peak; `unknown` stages have never said how much they leave."""
    from hermetic.realise.display import human_bytes

    return f"; the disk must hold {'at least ' if unknown else ''}{human_bytes(needed)} more"


def _time(seconds: float) -> str:
    from hermetic.realise.display import human_time

    return human_time(seconds)
