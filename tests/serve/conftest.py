"""Fixtures of `triton_kit`."""

from triton_kit import tiny

__all__ = ["tiny"]
