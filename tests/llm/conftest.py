"""Fixtures of `by_hand`."""

from by_hand import build, pythons

__all__ = ["build", "pythons"]
